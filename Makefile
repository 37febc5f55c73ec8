# Every target is a command of course.py. PYTHON names another Python, ARGS passes options on: make test ARGS="-k ranks"
PYTHON ?= python3
ARGS ?=

.PHONY: lab test build class collect grade glance scores bench site gpu-check publish solve help
lab: ; @$(PYTHON) course.py lab $(ARGS)
test: ; @$(PYTHON) course.py test $(ARGS)
build: ; @$(PYTHON) course.py build $(ARGS)
class: ; @$(PYTHON) course.py class $(ARGS)
grade: ; @$(PYTHON) course.py grade $(ARGS)
collect: ; @$(PYTHON) course.py collect $(ARGS)
glance: ; @$(PYTHON) course.py glance $(ARGS)
scores: ; @$(PYTHON) course.py scores $(ARGS)
bench: ; @$(PYTHON) course.py bench $(ARGS)
site: ; @$(PYTHON) course.py site $(ARGS)
gpu-check: ; @$(PYTHON) course.py gpu-check $(ARGS)
publish: ; @$(PYTHON) course.py publish $(ARGS)
solve: ; @$(PYTHON) course.py solve $(ARGS)
help: ; @$(PYTHON) course.py help
