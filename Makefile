# Needs python3 (3.11 to 3.13) and make. All that it installs goes into .venv; `make` alone prints the targets.

PYTHON = python3
BIN = .venv/bin
READY = .venv/ready

# This environment's kernel and packages, whatever else the user has.
export JUPYTER_PREFER_ENV_PATH = 1
unexport JUPYTER_PATH PYTHONPATH

.PHONY: help run test lint lab bench figures gist lock clean

help:
	@awk -F ': .*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

run: $(READY) ## set up, and train a tensor-train network on digits: the first notebook, picture and row
	$(BIN)/papermill notebooks/train.ipynb runs/first.ipynb --log-output --no-progress-bar \
		-p dataset digits -p decomp tt -p dims 3 -p width 16 -p epochs 8 -p batch_size 64 -p augment False
	@echo "Notebook and picture: runs/first.ipynb. Row: runs/results.csv."

test: lint ## set up, check the style and run all tests
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: $(READY) ## set up, and check the style alone
	$(BIN)/ruff check

lab: $(READY) ## set up, and open JupyterLab at notebooks/0-start-here.ipynb
	$(BIN)/jupyter-lab $(if $(filter 0,$(shell id -u)),--allow-root) \
		--LabApp.default_url=/lab/tree/notebooks/0-start-here.ipynb

bench: $(READY) ## set up, and time layers and training beside those of others: minutes, on 2 cores with nothing else to do
	$(BIN)/python benchmarks/layers.py
	$(BIN)/python benchmarks/training.py

figures: $(READY) ## set up, and execute the analysis notebooks from the committed records: a minute
	$(BIN)/python -m lowrank.lab.figures

gist: ## share one of them by the gh command: make gist NB=5-shoot-out
	@test -f "figures/$(NB).ipynb" || { echo "NB=$(NB): allowed are $(basename $(notdir $(wildcard figures/*.ipynb)))"; exit 1; }
	@command -v gh >/dev/null || { echo "gh is not installed: see https://cli.github.com"; exit 1; }
	@folder=$$(mktemp -d) && trap 'rm -r "$$folder"' EXIT && \
	origin=$$(git remote get-url origin 2>/dev/null | sed -E 's#^git@([^:]+):#https://\1/#; s#(\.git)?$$#/blob/HEAD/#') && \
	sed "s#](\.\./#]($${origin:-../}#g" "figures/$(NB).ipynb" > "$$folder/$(NB).ipynb" && \
	gh gist create --desc "lowrank: $(NB)" "$$folder/$(NB).ipynb"

lock: $(READY) ## fit requirements.lock to pyproject.toml; versions that still fit stay
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra test --generate-hashes \
		--custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

clean: ## remove the environment and the caches; runs stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || \
		{ echo "$(PYTHON) is not Python 3.11 to 3.13 with venv and pip; name one: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Setting up .venv: a few minutes and, on Linux, 6 GB. Only now, and when the lock changes."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m ipykernel install --sys-prefix --name python3 --display-name lowrank
	touch $(READY)
