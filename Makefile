# make demo   fine-tunes the shipped colorizer on a handful of photographs and shows what it makes of others, which it
#             has not seen; PHOTOS=folder takes your own
# make test   what every change must pass, some minutes; make test-slow: the slow proofs, which CI runs after it
# make test-lowest  make test with the lowest versions of the dependencies that pyproject.toml allows
# make lint   what the pre-commit hooks and CI run

PYTHON ?= python3
BIN := .venv/bin
DALI ?= cuda13
PHOTOS ?= demo/photos

# Photographs that come in scikit-image's wheel, so that nothing has to be downloaded.
define copy_photos
echo "photographs: eight of those in scikit-image's wheel (skimage/data)"; mkdir -p demo/photos; \
cd "$$($(BIN)/python -c 'import importlib.util as u; print(u.find_spec("skimage").submodule_search_locations[0])')/data" && \
cp astronaut.png chelsea.png coffee.png hubble_deep_field.jpg ihc.png motorcycle_left.png retina.jpg \
  rocket.jpg "$(CURDIR)/demo/photos"
endef

# The photographs of demo/shards/test, one path a line.
define LIST_TEST
import sys; from photochrom.pipelines import ShardSet; data = ShardSet.open("demo/shards/test")
print(*(f"{sys.argv[1]}/{data.sample(i).path}" for i in range(data.num_samples)), sep="\n")
endef
export LIST_TEST

.PHONY: demo test test-slow test-lowest lint install clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Photochrom needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv, which takes some minutes"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(DALI),dev]'
	@touch $@

demo: install
	rm -rf demo/shards demo/run demo/report demo/colorized
	@$(if $(filter demo/photos,$(PHOTOS)),$(copy_photos))
	$(BIN)/photochrom pack "$(PHOTOS)" demo/shards --split 0.6 --seed 1
	$(BIN)/photochrom train --config fine_tune --data.train demo/shards/train --data.val demo/shards/test \
	  --out demo/run --train.steps 60 --train.batch_size 8 --train.precision fp32 --log.validate_every 20
	$(BIN)/photochrom evaluate small-l2 demo/run --data demo/shards/test --out demo/report
	$(BIN)/python -c "$$LIST_TEST" "$(PHOTOS)" | \
	  $(BIN)/photochrom colorize - --model demo/run --out demo/colorized --contact-sheet
	@echo "The report: $(CURDIR)/demo/report/report.html"
	@echo "Before and after, photographs that were not trained on: $(CURDIR)/demo/colorized/before-after.jpg"

# Each of pytest's processes computes on one core: many threads on few cores would wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal
test: install
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST) -m slow

test-lowest:
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet -c constraints-lowest.txt -e '.[$(DALI),dev]'
	$(subst $(BIN),.venv-lowest/bin,$(PYTEST)) -m "not slow"

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf demo/shards demo/run demo/report demo/colorized build dist .venv/installed .mypy_cache .ruff_cache .pytest_cache .src/*.egg-info
