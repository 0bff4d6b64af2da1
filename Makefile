# Everything a person types here sets itself up: a virtual environment in .venv with pinned packages.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DATA ?= ../shared/data
LATER := compact-13-refiner compact-13 compact-14-prior compact-14 compact-15-prior compact-15 compact-16-prior compact-16 compact-17 compact-18
IMAGE_VAE ?= ../shared/image_vae
STEPS ?= 100
# A process for each core, of one thread: threads of several processes would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

.PHONY: help demo test check format fuzz kill benchmark benchmark-memory benchmark-metrics benchmark-seek benchmark-paper evaluate graphics lights train compat ablation architectures wheel clean

help: ## Show what can be made.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --constraint constraints.txt torch
	$(BIN)/python -m pip install -q --constraint constraints.txt --editable ".[dev]"
	@touch $(READY)

demo: $(READY) ## Encode and decode a clip, show size, quality and speed, and draw demo/comparison.png.
	$(BIN)/python tests/tools/demo.py demo

test: $(READY) ## Run all tests.
	$(PYTEST)

check: $(READY) ## Format, lint, types and tests.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

format: $(READY) ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fuzz: $(READY) ## Read mutated files for three minutes (FUZZ="--count 100000" for so many).
	$(BIN)/python tests/tools/fuzz.py $(FUZZ)

kill: $(READY) ## Kill -9 an encode at 20 random moments, resume it, compare the bytes.
	$(BIN)/python tests/tools/kill.py

benchmark: $(READY) ## Measure the network against the machine's own convolution rate.
	$(BIN)/python tests/tools/benchmark.py

benchmark-memory: $(READY) ## Measure peak memory of 300 and of 1500 frames (five minutes).
	$(BIN)/python tests/tools/benchmark.py memory

benchmark-metrics: $(READY) ## Measure the speed of the metrics.
	$(BIN)/python tests/tools/benchmark.py metrics

benchmark-seek: $(READY) ## Measure how long a single frame takes, wherever it lies (four minutes).
	$(BIN)/python tests/tools/benchmark.py seek

benchmark-paper: $(READY) ## Measure the paper's network at full size beside a plain one; its memory (15 minutes).
	$(BIN)/python tests/tools/benchmark.py paper
	$(BIN)/python tests/tools/benchmark.py paper-memory

evaluate: $(READY) ## Figures of README and model card: cvvae bench on DATA/eval/video (half an hour).
	$(BIN)/python tests/tools/evaluate.py $(DATA)

graphics: $(READY) ## Draw clips of text and full colours, and measure the default model on them (five minutes).
	$(BIN)/python tests/tools/draw_clips.py runs/drawn
	$(BIN)/cvvae bench --dataset runs/drawn -q 1,4,7,10 --baseline x264:medium --metrics psnr_db

lights: $(READY) ## Draw clips whose light changes, and measure the default model on them (ten minutes).
	$(BIN)/python tests/tools/light_clips.py runs/lights
	$(BIN)/cvvae bench --dataset runs/lights -q 3,5,8 --baseline x264:medium --metrics psnr_db,psnr_db_pooled

train: $(READY) ## Train the default model on DATA/train again (hours); resumes from runs/.
	$(BIN)/cvvae train --recipe compact-8 --data $(DATA)/train --holdout $(DATA)/eval/video --run runs/compact --export runs/compact-8.safetensors --force
	$(BIN)/cvvae train --recipe compact-9 --data $(DATA)/train --holdout $(DATA)/eval/video --run runs/refiner --export runs/compact-9.safetensors --force
	$(BIN)/cvvae train --recipe compact-11 --data $(DATA)/train --holdout $(DATA)/eval/video --run runs/refiner-11 --export runs/compact-11.safetensors --force
	$(BIN)/cvvae train --recipe compact-12 --data $(DATA)/train --holdout $(DATA)/eval/video --run runs/joiner-12 --export runs/compact-12.safetensors --force
	cd runs && for name in $(LATER); do $(abspath $(BIN))/cvvae train --recipe $$name --data $(abspath $(DATA))/train --holdout $(abspath $(DATA))/eval/video --run $$name --export $$name.safetensors --force || exit 1; done

compat: $(READY) ## Measure compact-flux2 against the image VAE at IMAGE_VAE (ten minutes).
	$(BIN)/python tests/tools/compat.py report $(DATA) $(IMAGE_VAE) $(COMPAT)

ablation: $(READY) ## Train mappings and sides of the regularisation for STEPS steps each; table of the model card.
	$(BIN)/python tests/tools/compat.py ablation $(DATA) $(IMAGE_VAE) --steps $(STEPS)

architectures: $(READY) ## Train variants of compact for STEPS steps each; table of the model card.
	$(BIN)/python tests/tools/architectures.py $(DATA) --steps $(STEPS)

wheel: $(READY) ## Build the wheel into dist/.
	$(BIN)/python -m pip wheel -q --no-deps --wheel-dir dist .

clean: ## Remove what make made.
	rm -rf $(VENV) demo dist build
