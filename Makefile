# The commands one types daily.
PYTHON = .venv/bin/python

.PHONY: setup test lint types docs try
setup:
	python3 -m venv .venv && .venv/bin/pip install -q torch==2.13.0 -e '.[test,lint]'
test:
	.venv/bin/pytest -m 'not slow'
lint:
	.venv/bin/ruff check . && .venv/bin/ruff format --check .
types:
	.venv/bin/mypy
docs:
	.venv/bin/pip install -q '.[docs]' && .venv/bin/mkdocs build --strict -q -d site
try:
	.venv/bin/patchscaler upscale examples/cat.jpg -o cat_x4.png --overwrite
