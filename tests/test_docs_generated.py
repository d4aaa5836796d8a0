"""Pages that the code defines are what the code says."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_generated_pages_match_the_code() -> None:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "tools" / "generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    generate_docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate_docs)

    assert generate_docs.stale() == [], "run `make docs` and commit the result"
