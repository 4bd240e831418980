// Draws every figure in its place. One that fails says so and leaves the rest alone.
(() => {
  const { config, figures } = JSON.parse(document.getElementById("specs").textContent);
  const options = { renderer: "svg", actions: false, config, tooltip: { theme: "page" } };
  const draw = (key) => {
    const place = document.getElementById("figure-" + key);
    if (!place) return Promise.resolve();
    return vegaEmbed(place, figures[key], options).catch((error) => {
      place.textContent = "This figure could not be drawn: " + error.message;
    });
  };
  Promise.all(Object.keys(figures).map(draw)).then(() => document.body.setAttribute("data-drawn", "yes"));
})();
