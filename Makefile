# make demo       set up .venv, run one split of the embedded data on this machine, write results/report.html
# make test       set up .venv, check style, types and workflow, run the tests
# make test-cluster  run RETAB and POP on a Slurm that it starts on this machine (root; slurm-wlm, munge), and break it
# make nightly    10,000 cases of fuzzing, then test-cluster with its tests that take minutes
# make setup      only set up .venv
# make generated  write again what is made from the options classes
# make clean      remove .venv and caches; results stay
#
# PYTHON=python3.12 chooses the interpreter, CORES=4 the number of processes and threads.

VENV := .venv
BIN := $(VENV)/bin
SUPPORTED := import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])
# The first of these that is a supported version; empty when none is.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do $$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)
CORES ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
# Small jobs side by side are faster than one after the other with all cores each.
ONE_THREAD := --set-threads $(foreach rule,classifier cam crf_label boundary boundary_map affinity affinity_map random_walk predict score_maps,retab_$(rule)=1)
STAMP := $(VENV)/.set-up
SNAKEFILES := Snakefile rules workflow

.PHONY: demo test test-cluster nightly setup clean lint generated
.DEFAULT_GOAL := demo

demo: $(STAMP)
	$(BIN)/snakemake --configfile config/demo.yaml --cores $(CORES) $(ONE_THREAD) -- results/retab/fold0/miou.json results/report.html
	@echo
	@echo "Done. The page for people:   results/report.html"
	@echo "The scores of fold0:         results/retab/fold0/miou.json"
	@echo "Everything scored, as a table: results/retab/summary.csv"
	@echo "All splits: $(BIN)/snakemake --cores $(CORES) all_folds report"

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(CORES) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-cluster: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/cluster -rs --durations=10

nightly: $(STAMP)
	ANYSHOT_FUZZ_CASES=10000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/reliability -k fuzz --numprocesses $(CORES) --maxprocesses 4 --dist loadfile
	ANYSHOT_NIGHTLY=1 $(MAKE) test-cluster

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check $(SNAKEFILES)
	$(BIN)/snakemake --lint

# After a change of an options class: the schema, the published overlays below their system's key, and the reference.
generated: $(STAMP)
	$(BIN)/python -m anyshot.config --schema > workflow/schema.json
	for pair in retab:retab_voc raml:raml_cityscapes pop:pop_voc pop_coco:pop_coco simformer:simformer_cocostuff simformer_ade20k:simformer_ade20k larvseg:larvseg_ade150; do \
	  system=$${pair%%:*} overlay=config/paper/$${pair#*:}.yaml; \
	  $(BIN)/python -m anyshot.config --published $$system > $$overlay.part || exit 1; \
	  { sed "/^$${system%%_*}:/,\$$d" $$overlay; sed 's/^  shards: 1$$/  shards: 16                 # not published: jobs per per-image stage/' $$overlay.part; } > $$overlay.new; \
	  mv $$overlay.new $$overlay && rm $$overlay.part; \
	done
	$(BIN)/python docs/generate.py

setup: $(STAMP)

# Reinstalled only when what is installed changes. `which` is asked for by Snakemake's Slurm plug-in at every start.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "anyshot needs Python 3.11 or 3.12, found $$(python3 --version 2>&1): install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c '$(SUPPORTED)' || { echo "anyshot needs Python 3.11 or 3.12, PYTHON=$(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1)" >&2; exit 1; }
	@command -v which > /dev/null || { echo "the command 'which' is missing (Debian: apt-get install debianutils): Snakemake does not start without it" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
