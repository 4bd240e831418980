"""`stepladder export`: a run folder in, a folder that transformers loads or a file of llama.cpp out."""

import json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def export(
    run: Annotated[Path, Parameter(help="Run folder with trained weights (RUN/model).")],
    *,
    out: Annotated[Path, Parameter(help="Folder to write.")] = Path("export"),
    tokenizer: Annotated[
        Path | None, Parameter(help="Corpus folder or tokenizer.json; by default what the run's plan names.")
    ] = None,
    format_: Annotated[
        Literal["folder", "gguf"],
        Parameter(name="--format", help="folder: for transformers; gguf: OUT/NAME.gguf for llama.cpp."),
    ] = "folder",
    dtype: Annotated[Literal["keep", "fp32", "bf16"], Parameter(help="Type of the stored weights.")] = "keep",
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Write what AutoModelForCausalLM and AutoTokenizer load as they are, or one file for llama.cpp."""
    from stepladder.models.export import export_folder
    from stepladder.models.gguf import export_gguf
    from stepladder.store import read_json
    from stepladder.units import format_bytes

    if format_ == "gguf":
        written = [export_gguf(run, out / f"{run.resolve().name}.gguf", tokenizer, dtype=dtype)]
    else:
        written = sorted(export_folder(run, out, tokenizer, dtype=dtype).iterdir())
    files = {path.name: path.stat().st_size for path in written if path.is_file()}
    if json_:
        print(json.dumps({"folder": str(out), "files": files}))
        return 0
    for name, size in files.items():
        print(f"{format_bytes(size):>10}  {out / name}")
    if format_ == "gguf":
        print(f"load it with llama_cpp.Llama({str(written[0])!r})")
        return 0
    is_masked = "MaskedLM" in read_json(out / "config.json")["architectures"][0]
    loader = "AutoModelForMaskedLM" if is_masked else "AutoModelForCausalLM"
    print(f"load it with transformers.{loader}.from_pretrained({str(out)!r})")
    # Where `stepladder tune` puts it (tune/heads.py, which loads torch).
    if any((folder / "head").is_dir() for folder in (run, run / "model")):
        print(f"the head of its task is not part of it: stepladder predict {run} uses that one")
    return 0
