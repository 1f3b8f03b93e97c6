# `just` lists what there is. Everything runs in .venv, which `just setup` makes.

python := ".venv/bin/python"

_list:
    @just --list

# Make the environment that all other recipes use
setup:
    python3 -m venv .venv
    {{python}} -m pip install -q -e '.[test,examples,dev]'

# All tests but those that take minutes or gigabytes
test *args:
    {{python}} -m pytest -n 4 --dist loadfile {{args}}

# The tests with a real Slurm, if it is installed
engines *args:
    {{python}} -m pytest -m engine --timeout 120 {{args}}

# The tests of pure code and of files: seconds
fast *args:
    {{python}} -m pytest -q tests/unit -n 2 {{args}}

# Lint, layout of the code, spelling
lint:
    {{python}} -m ruff check .
    {{python}} -m ruff format --check .
    .venv/bin/codespell

# Types: mypy, strict on the package and the examples; pyright on the package; what both say of users' programs
types:
    {{python}} -m mypy
    .venv/bin/basedpyright
    {{python}} -m pytest -q tests/typing

# The tests that hold the documents to the code
docs:
    {{python}} -m pytest -q tests/repository/test_docs.py tests/repository/test_site.py tests/repository/test_packaging.py

# The documentation site, in build/site
site *args:
    {{python}} -m pip install -q -e '.[docs]'
    NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict -f docs/site/mkdocs.yml {{args}}

# Figures beside ProcessPoolExecutor, in one run; only on a quiet machine
bench *args:
    {{python}} -m benchmarks {{args}}

# What must pass before a change goes in
ci:
    .ci/run
