"""`stepladder export`: a run folder in, a folder that transformers loads out."""

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
    dtype: Annotated[Literal["keep", "fp32", "bf16"], Parameter(help="Type of the stored weights.")] = "keep",
    json_: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Write config, weights and tokenizer that AutoModelForCausalLM and AutoTokenizer load as they are."""
    from stepladder.models.export import export_folder
    from stepladder.units import format_bytes

    folder = export_folder(run, out, tokenizer, dtype=dtype)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    if json_:
        print(json.dumps({"folder": str(folder), "files": files}))
        return 0
    for name, size in files.items():
        print(f"{format_bytes(size):>10}  {folder / name}")
    print(f"load it with transformers.AutoModelForCausalLM.from_pretrained({str(folder)!r})")
    return 0
