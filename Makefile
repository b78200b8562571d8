# Every command a newcomer needs. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help install demo table ablations dopsd test test-slow test-all fuzz lint format type docs bench soak mini-model mini-klein clean

PYTHON ?= python3
# Extra arguments for installing torch: on a machine without an NVIDIA GPU whose pip knows no CPU wheel, pass
# TORCH_ARGS="--index-url <the address of PyTorch's CPU wheel index>" to save a download of several gigabytes.
TORCH_ARGS ?=
# Hydra overrides for `make demo` and every step of `make mini-model` and `mini-klein`, or arguments for pytest in `make test`.
ARGS ?=

# Seeds of every row of the table (1 if empty) and of every cell of the ablations (3).
SEEDS ?=
# Trials of every phase in `make soak`; empty: 50 for distillation and NFT, 10 for every other.
TRIALS ?=
# `full` runs every file of conf/experiment/ablation.
ABLATIONS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := $(BIN)/python -m diffopd.train
CORES := $(shell getconf _NPROCESSORS_ONLN)
# Test processes, 4 at most as each takes over a gigabyte: one more than cores, as tests wait for processes and pauses; the
# slow ones have several processes of their own. Tests that run one after the other share their file's fixtures.
# WORKERS= (empty) runs all in one process, as pytest's --pdb needs it; the slow ones take SLOW_WORKERS.
WORKERS ?= $(if $(filter-out 1,$(CORES)),$(if $(findstring --pdb,$(ARGS)),,-n $(shell echo $$(($(CORES) + 1))) --maxprocesses 4 --dist worksteal))
SLOW_WORKERS ?= $(if $(WORKERS),-n logical --maxprocesses 4 --dist loadfile)
# Byte code is kept, whatever the environment says: many tests start a Python of their own.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest

help:  ## List these commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## Create .venv with the tested versions (constraints.txt); PYTHON=..., TORCH_ARGS=...

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "diffopd needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); pass PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@command -v nvidia-smi >/dev/null || [ "$$(uname)" = Darwin ] || [ -n "$(TORCH_ARGS)" ] || echo \
		"No NVIDIA GPU found. Should pip now fetch nvidia-* packages, TORCH_ARGS in docs/quickstart.md avoids them."
	$(BIN)/python -m pip install -q --no-compile $(TORCH_ARGS) -c constraints.txt torch
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e '.[dev]'
	-@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib  # on all cores; pip compiles on one, for a minute
	@touch $@

demo: install  ## Distil three teachers into one student, then say which page to open; ARGS="trainer.max_epochs=3 run_id=short".
	$(RUN) +experiment=mopd_balanced $(ARGS)

table: install  ## Train and score every row of the paper's Table 1 (about 100 minutes on 2 slow cores); SEEDS=3: seeds of every row.
	$(BIN)/python -m diffopd.table seeds=$(or $(SEEDS),1) $(ARGS)

ablations: install  ## Figures 5 and 6 and gradient variance (80 minutes on 2 cores); SEEDS=6; ABLATIONS=full: every file.
	$(BIN)/python -m diffopd.ablations seeds=$(or $(SEEDS),3) $(if $(filter full,$(ABLATIONS)),ablations=all) $(ARGS)

# What a few-step model can be taught, drawn by code; a folder that is there already is kept.
TAUGHT := runs/dopsd_pictures
# Everything that D-OPSD's tables make but runs and pictures one by one.
WRITTEN := table.md table.csv wins.md wins.csv wins.png claims.md images.png radar.png reward_by_minutes.png index.html data
DOPSD := "model=mini_klein","adapter=lora_large","data.path=$(TAUGHT)/figure/train","trainer.max_epochs=300","+reward=picture_nearness","phase.score_every_n_rounds=10","callbacks.leak_test.num_draws=8"

dopsd: install  ## D-OPSD's Tables 1 and 2 and Figure 6 on the embedded few-step model, into experiments/dopsd; SEEDS=3; ARGS for the tables.
	test -d $(TAUGHT)/figure || $(BIN)/python -m diffopd.world.learning_tasks figure $(TAUGHT)/figure --side 64 --number 20
	test -d $(TAUGHT)/style || $(BIN)/python -m diffopd.world.learning_tasks style $(TAUGHT)/style --side 64 --style inverted
	test -d $(TAUGHT)/domain || $(BIN)/python -m diffopd.world.learning_tasks domain $(TAUGHT)/domain --side 64
	$(BIN)/python -m diffopd.table rows=dopsd seeds=$(or $(SEEDS),3) $(ARGS)
	$(BIN)/python -m diffopd.table rows=dopsd_style seeds=$(or $(SEEDS),3) $(ARGS)
	$(BIN)/python -m diffopd.table rows=dopsd_domain seeds=$(or $(SEEDS),3) $(ARGS)
	$(BIN)/python -m diffopd.ablations 'ablations=[dopsd_rule,dopsd_teacher,dopsd_steps,dopsd_loss,dopsd_leak]' run_id=dopsd \
		seeds=$(or $(SEEDS),3) 'more_benchmarks=[dopsd_figure]' 'guidance=[1]' 'overrides=[$(DOPSD)]'
	for table in table1_figure table1_style table2_domain; do mkdir -p experiments/dopsd/$$table; \
		for file in $(WRITTEN); do ! test -e runs/dopsd/$$table/one/$$file || \
			cp -R runs/dopsd/$$table/one/$$file experiments/dopsd/$$table/; done; done
	mkdir -p experiments/dopsd/figure6 && cp -R runs/ablations/dopsd/report/. experiments/dopsd/figure6/

test: install  ## Run the tests (5 minutes on 2 idle cores); ARGS="tests/flow -k sigma".
	$(PYTEST) $(WORKERS) $(ARGS)

# In the order of tests/conftest.py: a long file that begins last is run while the other processes have nothing to do.
test-slow: install  ## Run the slower tests: kills, several processes, whole commands.
	$(PYTEST) $(SLOW_WORKERS) --no-loadscope-reorder -m "slow and not exhaustive" $(ARGS)

test-all: install  ## Run every test: those of `make test` and `make test-slow`, and exhaustive lists (an hour on 2 cores).
	$(PYTEST) $(SLOW_WORKERS) --no-loadscope-reorder -m "" $(ARGS)

fuzz: install  ## Try 1,000 mutated configs; each must run or end in an error; COUNT=200 SEED=7.
	OMP_NUM_THREADS=1 PYTHONPATH=tests:$$PYTHONPATH $(BIN)/python -m support.fuzz.campaign $(or $(COUNT),1000) $(or $(SEED),0)

lint: install  ## Check style, format and the direction of imports.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache

format: install  ## Rewrite the code in the project's format.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

type: install  ## Check types.
	$(BIN)/pyright

docs: install  ## Build the documentation into site/; a broken link is an error.
	$(BIN)/mkdocs build --strict

bench: install  ## What the fused round, batches of all tasks and kept prompts save (minutes, idle); ARGS="--repeats 15".
	$(BIN)/python benchmarks/opd_round.py --output experiments/bench $(ARGS)

soak: install  ## Kill and resume runs of every phase repeatedly; TRIALS=50: trials per phase.
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py $(if $(TRIALS),--trials $(TRIALS)) $(ARGS)

mini-model: install  ## Rebuild the embedded model from scratch (hours on a CPU), or resume that; ARGS="seed=1".
	$(RUN) +experiment=mini_autoencoder if_finished=skip $(ARGS)
	$(RUN) +experiment=mini_pretrain if_finished=skip $(ARGS)
	$(RUN) +experiment=mini_signs if_finished=skip $(ARGS)
	$(RUN) +experiment=mini_more_signs if_finished=skip $(ARGS)
	$(RUN) +experiment=mini_more if_finished=skip $(ARGS)

mini-klein: install  ## Rebuild the embedded few-step model from scratch (hours on a CPU), or resume that; ARGS="seed=1".
	$(RUN) +experiment=mini_klein_autoencoder if_finished=skip $(ARGS)
	$(RUN) +experiment=mini_klein_pretrain if_finished=skip $(ARGS)
	$(RUN) +experiment=mini_klein_more if_finished=skip $(ARGS)
	$(BIN)/python -m diffopd.data.figure_prompts runs/mini_klein_figures
	$(RUN) +experiment=mini_klein_distil if_finished=skip $(ARGS)

clean:  ## Remove the environment and what the tools left; runs/ stays.
	rm -rf $(VENV) dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
