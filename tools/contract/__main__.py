"""`python -m tools.contract`: writes docs/schemas/v1 and docs/asyncapi.html again."""

from __future__ import annotations

from tools.contract.page import page_from_asyncapi
from tools.contract.schemas import DOCS, SCHEMAS_DIR, write_schemas


def main() -> None:
    """Write the schemas and the page."""
    write_schemas(SCHEMAS_DIR)
    (DOCS / "asyncapi.html").write_text(page_from_asyncapi(DOCS / "asyncapi.yaml"), encoding="utf-8")


if __name__ == "__main__":
    main()
