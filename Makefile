# `make` alone prints this help, made from the comment beside each target.
.DEFAULT_GOAL := help
.PHONY: help demo test lint types bench sanitize docs-check

help:  ## print this help
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
	  while IFS='|' read -r name text; do printf '%-12s%s\n' "$$name" "$$text"; done

demo:  ## train a classifier of digits on every device
	uv run portanet demo

test:  ## run all tests on the devices that are there
	uv run pytest

lint:  ## check style and format with ruff
	uv run ruff check
	uv run ruff format --check

types:  ## check types with basedpyright
	uv run basedpyright portanet

bench:  ## time operators and a training step on every device
	uv run portanet bench

sanitize:  ## test the C kernels under address, undefined and thread sanitizers
	PYTHON=$$(uv run python -c 'import sys; print(sys.executable)') \
	  bash tests/sanitize.sh

docs-check:  ## run every example and command of the documents
	uv run pytest tests/test_docs.py tests/test_add_an_operator.py
