# Two commands matter: `make run` (the pipeline, on the source that params.yaml names; at first the demo cohort)
# and `make test`. Both make the environment if it is missing.

PYTHON ?= python3
VENV := .venv
LOCK := requirements.lock
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
# without settings that would send uv or the stages to another environment than .venv
CLEAN := env -u UV_PYTHON -u UV_PROJECT_ENVIRONMENT -u UV_NO_DEV -u VIRTUAL_ENV -u PYTHONPATH -u PYTHONHOME
ACTIVATE := $(CLEAN) VIRTUAL_ENV="$(abspath $(VENV))" PATH="$(abspath $(BIN)):$$PATH"

.PHONY: run study mnist simulate decide quality test test-quick test-browser test-long test-remote test-jax \
	test-faults coverage bench ui lint format lock audit environment clean

environment: $(STAMP)

# pip installs uv in the version of the lock file (the line with sed). uv installs the rest in seconds, not minutes.
# Bytecode is compiled once here. Otherwise, where PYTHONDONTWRITEBYTECODE is set, each of the pipeline's many short
# processes would compile TensorFlow again.
$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"histocae needs Python 3.11, 3.12 or 3.13, found {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(CLEAN) $(PYTHON) -m venv --clear $(VENV)
	sed -n '/^uv==/,/^[^ ]/{/^uv==/p;/^ /p;}' $(LOCK) > $(VENV)/uv.txt
	$(CLEAN) $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(VENV)/uv.txt
	$(ACTIVATE) uv pip install --quiet --require-hashes --compile-bytecode -r $(LOCK) || \
		{ echo "uv failed; trying pip, which takes minutes but reads pip's own settings (mirror, certificates)"; \
		$(CLEAN) $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK); }
	$(ACTIVATE) uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(STAMP)

run: $(STAMP)
	$(ACTIVATE) dvc repro

# Copies the params of examples/study.yaml into params.yaml and runs the pipeline; the source of slides stays.
study: $(STAMP)
	$(ACTIVATE) python examples/apply.py examples/study.yaml
	$(ACTIVATE) dvc repro

# Both examples on MNIST, with their own params, data and models in examples/mnist.
mnist: $(STAMP)
	$(ACTIVATE) dvc repro examples/mnist/dvc.yaml

# Three processes on two cores: tests of servers and jobs spend much of their time waiting.
PYTEST := python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
test: lint
	$(ACTIVATE) $(PYTEST)

# Under two minutes on two cores: no server and no process that runs a whole pipeline (tests/conftest.py).
test-quick: $(STAMP)
	$(ACTIVATE) python -m pytest -n 2 --dist loadfile -m "not slow and not browser and not long and not remote and not faults"

# Measures which lines of src the tests run, also in the processes that they start. Takes longer than `make test`.
coverage: $(STAMP)
	rm -f .coverage .coverage.*
	$(ACTIVATE) $(PYTEST) --cov --cov-report=term --cov-report=html

# Needs chromium.
test-browser: $(STAMP)
	$(ACTIVATE) python -m pytest -m browser

# Tests of jobs on other machines; the tests use this machine for all of them. As root on Debian and similar systems,
# the command installs and starts the services. As another user it leaves out Slurm and uses what is installed.
test-remote: $(STAMP)
	$(ACTIVATE) python tests/support/services.py python -m pytest -m "remote or not remote" tests/tracking/jobs tests/workers tests/test_remotes.py

# Injects faults: kills, failing servers and disks, random input. Prints its table and writes it into the document.
# Takes half an hour on two cores.
test-faults: $(STAMP)
	$(ACTIVATE) FAULTS_TABLE=docs/reliability.md python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
		-m faults tests/faults

# The longest tests: with them `make test` would take more than ten minutes on two cores.
test-long: $(STAMP)
	$(ACTIVATE) python -m pytest -m long

# Compares speed with that of the notebooks; writes benchmarks/results.json and the table of benchmarks/README.md.
# Takes less than 25 minutes on two idle cores.
bench: $(STAMP)
	$(ACTIVATE) python benchmarks/all.py

# Simulates cohorts with a known AUROC; writes benchmarks/simulations.json, benchmarks/simulations_more.json and the
# tables of docs/statistics.md. Takes less than 30 minutes on two idle cores, with one process for each core.
simulate: $(STAMP)
	$(ACTIVATE) OPENBLAS_NUM_THREADS=1 python benchmarks/simulations.py

# Which pair of models distinguishes tumor from normal best, and by which score? DATA has the folders that
# examples/own_data.py reads. Writes benchmarks/decide.json, and the tables and the figure of docs/studies/pair.md.
# Takes less than two hours on two idle cores (108 minutes without AVX-512); an interrupted study goes on.
DATA ?= ../shared/data
decide: $(STAMP)
	$(ACTIVATE) python benchmarks/decide.py $(DATA)

# How many patches with drawn faults are flagged, and how many clean ones; writes the tables of docs/quality.md where
# DATA has all folders that benchmarks/quality.py names. Takes less than five minutes on two idle cores.
quality: $(STAMP)
	$(ACTIVATE) OPENBLAS_NUM_THREADS=1 python benchmarks/quality.py $(DATA)

# Tests a training on jax, in an environment with only keras, jax, numpy, pandas and cachetools. On a machine with a
# graphics card, benchmarks/train_gpu.py needs only these libraries too.
JAX := .venv-jax
test-jax: $(JAX)/.complete
	$(CLEAN) KERAS_BACKEND=jax PYTHONPATH=src $(JAX)/bin/python -m pytest -p no:cacheprovider -c /dev/null --rootdir . \
		--noconftest -q tests/training/test_steps.py

$(JAX)/.complete: benchmarks/requirements.lock $(STAMP)
	$(CLEAN) $(PYTHON) -m venv --clear $(JAX)
	$(ACTIVATE) uv pip install --quiet --python $(JAX)/bin/python --require-hashes -r benchmarks/requirements.lock
	touch $@

ui: $(STAMP)
	@case "$$MLFLOW_TRACKING_URI" in http*) echo "the runs are on a server: open $$MLFLOW_TRACKING_URI"; exit 1;; esac
	$(ACTIVATE) mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" --port $${PORT:-5000}

# Style, format, types, imports between packages, spelling; each is configured in pyproject.toml.
CODE := src tests examples notebooks benchmarks
lint: $(STAMP)
	$(ACTIVATE) ruff check $(CODE)
	$(ACTIVATE) ruff format --check $(CODE)
	$(ACTIVATE) mypy
	$(ACTIVATE) lint-imports
	$(ACTIVATE) codespell

format: $(STAMP)
	$(ACTIVATE) ruff check --fix $(CODE)
	$(ACTIVATE) ruff format $(CODE)

# The lock files are for every platform and every Python that pyproject.toml allows. They have hashes, and no name of
# an index or host.
lock: $(STAMP)
	$(ACTIVATE) uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
		--upgrade --quiet --output-file requirements.lock
	cp requirements.lock requirements-gpu.lock
	$(ACTIVATE) uv pip compile pyproject.toml --extra dev --extra gpu --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
		--quiet --output-file requirements-gpu.lock
	$(ACTIVATE) uv pip compile benchmarks/requirements.in --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
		--upgrade --quiet --output-file benchmarks/requirements.lock

# Checks the locked versions for known vulnerabilities; fails where it finds one, and where no vulnerability service is
# reachable. requirements-gpu.lock has all packages of requirements.lock, in the same versions.
audit: $(STAMP)
	$(ACTIVATE) python tests/support/audit.py requirements-gpu.lock benchmarks/requirements.lock

clean:
	rm -rf $(VENV) $(JAX)
