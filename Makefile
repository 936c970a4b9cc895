# SPDX-License-Identifier: LGPL-2.1-or-later
# All targets; `make help` lists them. Everything that is built goes to build/.

SRC ?= .
BUILD = build

# `make demo` and `make check` first see that everything they need is installed, then start again with a configuration.
BOOT = demo check help setup clean distclean
JOBS = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell getconf _NPROCESSORS_ONLN))
AGAIN = $(MAKE) -s --no-print-directory
ifneq ($(filter $(BOOT),$(MAKECMDGOALS)),)
else
include config.mak
endif

all:
# configure leaves what it finds the same alone
config.mak: $(SRC)/configure
	$(SRC)/configure $(CONFIGURE)
	@touch $@
config.h: config.mak ;

# ---- what there is ------------------------------------------------------------------------------------------------------

FOLDERS = kernels kernels/base kernels/cpu kernels/cuda kernels/dry kernels/comm model/files model/nets model/engine
LIB_C := $(sort $(wildcard $(FOLDERS:%=$(SRC)/%/*.c)))
LIB_C := $(filter-out %comm_mpi.c,$(LIB_C))
ifneq ($(HAVE_ONEDNN),1)
LIB_C := $(filter-out %onednn.c %onednn_items.c,$(LIB_C))
endif
ifneq ($(HAVE_AVX2),1)
LIB_C := $(filter-out %_avx2.c,$(LIB_C))
endif
ifneq ($(HAVE_AVX512),1)
LIB_C := $(filter-out %_avx512.c,$(LIB_C))
endif
ifneq ($(HAVE_AMX),1)
LIB_C := $(filter-out %_amx.c,$(LIB_C))
endif
object = $(patsubst $(SRC)/%,$(BUILD)/obj/%.o,$(basename $(1)))
LIB_O := $(call object,$(LIB_C) $(wildcard $(SRC)/model/nets/*.cc))
TOOL_O := $(call object,$(wildcard $(SRC)/tools/*.c) $(if $(filter 1,$(HAVE_DLIB)),$(SRC)/tools/face.cc))
PARITY_O := $(call object,$(wildcard $(SRC)/tests/parity/*.c))
TEST_O := $(call object,$(SRC)/tests/test.c $(SRC)/tests/model.c $(SRC)/tools/seeded.c)
DRAW_O := $(call object,$(SRC)/tests/draw.c)
TESTS_C := $(sort $(wildcard $(SRC)/tests/unit/*.c)) $(sort $(wildcard $(SRC)/tests/kernels/*.c)) $(sort $(wildcard $(SRC)/tests/e2e/*.c))
TESTS := $(patsubst $(SRC)/tests/%.c,$(BUILD)/tests/%,$(TESTS_C))

# without OpenMP nobody reads its pragmas, nor the backend's number of threads in them
WARN = -Wall -Wextra $(if $(OPENMP),,-Wno-unknown-pragmas -Wno-unused-parameter)
INC = -I. -I$(SRC)/kernels -I$(SRC)/model -I$(SRC)
FLAGS = $(CFLAGS) $(WARN) -std=c11 -D_GNU_SOURCE -fPIC $(OPENMP) $(INC)
V_CC = @echo "CC      $<";

all: $(BUILD)/libavatar.a $(BUILD)/libavatar.so $(BUILD)/libavatar.pc $(BUILD)/avatar.1 $(if $(filter yes,$(TOOL)),$(BUILD)/avatar,no-tool) $(if $(filter yes,$(CUDA)),cuda) $(if $(MPICC),$(BUILD)/libavatar_mpi.so)
no-tool:
	@echo "SKIPPED the tool: configure did not find libavformat and its kin"

# ---- how it is built ----------------------------------------------------------------------------------------------------

# Strict IEEE arithmetic: faster, but the same bits for any number of threads and any order of files.
$(BUILD)/obj/kernels/cpu/%.o $(BUILD)/obj/kernels/convert.o: FLAGS += -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math
# Each level is that level, also where CFLAGS has -march=native.
$(BUILD)/obj/%_avx2.o: FLAGS += -mavx2 -mfma -mf16c -mno-avx512f
AVX512 = -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c -mno-avx512bf16
$(BUILD)/obj/%_avx512.o: FLAGS += $(AVX512)
$(BUILD)/obj/%_vnni_avx512.o: FLAGS += -mavx512vnni
$(BUILD)/obj/%_amx.o: FLAGS += $(AVX512) -mavx512bf16 -mamx-tile -mamx-bf16 -mamx-int8
$(BUILD)/obj/tools/%.o: FLAGS += -I$(SRC)/tools $(LIBAV_CFLAGS)
$(BUILD)/obj/tests/%.o: FLAGS += -I$(SRC)/tests
$(BUILD)/obj/%.o: $(SRC)/%.c config.h
	@mkdir -p $(@D)
	$(V_CC)$(CC) $(FLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/obj/%.o: $(SRC)/%.cc config.h
	@mkdir -p $(@D)
	$(V_CC)$(CXX) $(filter -O% -g -f%,$(CFLAGS)) -Wall -Wextra -std=c++17 -fPIC $(INC) -MMD -MP -c -o $@ $<

$(BUILD)/libavatar.a: $(LIB_O)
	@echo "AR      $@"
	@rm -f $@ && ar rcs $@ $^
$(BUILD)/avatar: $(TOOL_O) $(BUILD)/libavatar.a
	@echo "LD      $@"
	@$(CC) $(CFLAGS) $(OPENMP) $(LDFLAGS) -o $@ $^ $(LIBAV_LIBS) $(DLIB_LIBS) $(LIBS)

# The plugin: what needs CUDA, and the few of our files that it calls; warnings, spills and local memory are errors. Machine code for each kind of card,
# and PTX of each that newer ones can take: avt_cuda_archs_serve() counts on it.
CUDA_HOME = $(patsubst %/bin/,%,$(dir $(NVCC)))
CUDA_CU := $(sort $(wildcard $(SRC)/kernels/cuda/*.cu))
CUDA_O := $(call object,$(CUDA_CU)) $(patsubst %,$(BUILD)/obj/plugin/%.o,kernels/cuda/plugin/host kernels/cuda/facts kernels/cuda/space kernels/op kernels/tensor kernels/tuned kernels/base/log kernels/base/text)
CUDA_FLAGS = -std=c++17 -O3 -Werror all-warnings -Xptxas -Werror,-warn-spills,-warn-lmem-usage -Xcompiler -Wall,-Wextra,-fPIC,-fvisibility=hidden $(INC) \
	$(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$a,code=sm_$a) $(foreach a,$(filter-out %a %f,$(CUDA_ARCHS)),-gencode arch=compute_$a,code=compute_$a)
ifneq ($(NVCC),)
cuda: $(BUILD)/libavatar_cuda.so
else
cuda:
	@echo "make cuda: configure did not find nvcc, cuBLASLt and cuDNN; doc/cuda.md says what to install, then run ./configure again" >&2; false
endif
$(BUILD)/obj/%.o: $(SRC)/%.cu config.h
	@mkdir -p $(@D)
	@echo "NVCC    $<"; $(NVCC) $(CUDA_FLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<
$(BUILD)/obj/plugin/%.o: $(SRC)/%.c config.h
	@mkdir -p $(@D)
	$(V_CC)$(CC) $(FLAGS) -fvisibility=hidden -MMD -MP -c -o $@ $<
$(BUILD)/libavatar_cuda.so: $(CUDA_O)
	@echo "LD      $@"
	@$(NVCC) -shared -o $@ $^ -Xlinker --no-undefined -L$(CUDA_HOME)/lib64 -L$(CUDA_HOME)/lib -lcublasLt -lcudnn

# what needs MPI: one file, with MPI's own compiler command
$(BUILD)/libavatar_mpi.so: $(SRC)/kernels/comm/comm_mpi.c $(SRC)/kernels/comm/mpi_plugin.h $(SRC)/kernels/comm/world.h config.h
	@echo "MPICC   $@"
	@$(MPICC) $(filter-out -fopenmp,$(FLAGS)) $(LDFLAGS) -shared -fvisibility=hidden -o $@ $<

$(BUILD)/avatar.1: $(SRC)/tools/man.sh $(SRC)/doc/avatar.1.in $(SRC)/doc/avatar.texi $(SRC)/tools/options.c $(SRC)/model/avatar.h config.mak
	@echo "MAN     $@"
	@mkdir -p $(@D) && $(SRC)/tools/man.sh $(SRC) $(datadir) > $@.new && mv $@.new $@

link_test = @mkdir -p $(@D); echo "LD      $@"; $(CC) $(CFLAGS) $(OPENMP) -o $@ $(filter %.o %.a,$^) $(LIBS) -lcmocka -lpng
$(BUILD)/tests/parity: $(PARITY_O) $(TEST_O) $(BUILD)/libavatar.a
	$(link_test)
$(BUILD)/tests/mkmodel: $(BUILD)/obj/tests/mkmodel.o $(TEST_O) $(BUILD)/libavatar.a
	$(link_test)
# what the tool reads and writes, seen from outside: for tests/e2e/tool.py
$(BUILD)/tests/media: $(call object,$(SRC)/tests/media.c $(addprefix $(SRC)/tools/,reader.c picture_in.c sound_in.c file.c)) $(BUILD)/libavatar.a
	@mkdir -p $(@D); echo "LD      $@"; $(CC) $(CFLAGS) $(OPENMP) -o $@ $^ $(LIBAV_LIBS) $(LIBS)
$(BUILD)/obj/tests/media.o: FLAGS += -I$(SRC)/tools $(LIBAV_CFLAGS)
$(BUILD)/tests/live_error: $(DRAW_O)
# one program for a card and the emulated GPU
$(BUILD)/tests/gpu/frames: $(SRC)/tests/gpu/frames.c $(SRC)/model/avatar.h $(BUILD)/libavatar.so
	@mkdir -p $(@D); echo "LD      $@"; $(CC) $(FLAGS) -isystem $(CUDA_INC) -o $@ $< $(BUILD)/libavatar.so -Wl,-rpath,'$$ORIGIN/../..' -ldl -lm
$(BUILD)/tests/soak $(BUILD)/tests/live_error $(BUILD)/tests/gpu/stream: $(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(TEST_O) $(BUILD)/libavatar.a
	$(link_test)
$(TESTS): $(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(TEST_O) $(BUILD)/libavatar.a
	$(link_test)
.SECONDARY:

# A model folder of random weights for the filter's tests.
TINY_MODEL = $(BUILD)/tests/tiny
$(TINY_MODEL): $(BUILD)/tests/mkmodel
	@rm -rf $@ && $(BUILD)/tests/mkmodel $@

include $(SRC)/tools/ffmpeg.mak

# ---- tests ----------------------------------------------------------------------------------------------------------------

RUN = $(SRC)/tests/run.sh
include $(SRC)/tests/proof.mak
include $(SRC)/tests/simt/simt.mak
ifeq ($(TESTS_CAN),yes)
build-tests: $(TESTS) $(CORPUS_TESTS) $(BUILD)/tests/parity $(BUILD)/tests/mkmodel
else
build-tests:
	@echo "tests cannot be built: $(TESTS_CAN)" >&2; false
endif
one = $(if $(T),$(filter %/$(T),$(1)),$(1))
check-unit check-kernels check-e2e: check-%: build-tests
	@$(RUN) $(call one,$(filter $(BUILD)/tests/$*/%,$(TESTS)))
TOOL_TESTS = $(if $(filter yes,$(TOOL)),"$(SRC)/tests/e2e/tool.py --tool $(BUILD)/avatar --media $(BUILD)/tests/media --model $(TINY_MODEL)")
EXAMPLES = $(SRC)/tests/e2e/examples.py --src $(SRC) --tool $(BUILD)/avatar --model $(TINY_MODEL) --bin $(BUILD)/ffmpeg/bin
check-examples: $(BUILD)/avatar $(TINY_MODEL)
	@$(RUN) "$(EXAMPLES)"
check-tool: $(BUILD)/avatar $(BUILD)/tests/media $(TINY_MODEL)
	@$(RUN) $(TOOL_TESTS)
# films over several processes; T=case
OTHER_MODEL = $(BUILD)/tests/other
$(OTHER_MODEL): $(BUILD)/tests/mkmodel
	@rm -rf $@ && $(BUILD)/tests/mkmodel $@ tiny 7
# that of the MPI which avatar is built with
MPIRUN = $(dir $(MPICC))$(subst mpicc,mpirun,$(notdir $(MPICC)))
MPI_TESTS = $(if $(MPICC),$(if $(filter yes,$(TOOL)),"$(SRC)/tests/e2e/mpi.py --mpirun $(MPIRUN) --tool $(BUILD)/avatar --media $(BUILD)/tests/media --model $(TINY_MODEL) --other $(OTHER_MODEL) --bin $(BUILD)/ffmpeg/bin $(T)"))
check-mpi: all $(BUILD)/tests/media $(TINY_MODEL) $(OTHER_MODEL)
	@$(RUN) $(or $(MPI_TESTS),"echo SKIPPED: avatar was built without MPI; echo 0 passed, 0 failed, 1 skipped")
# the same by Slurm's srun, on a cluster of this host alone; root, and slurmctld, slurmd, slurm-client
SLURM_TESTS = $(if $(MPI_TESTS),"$(SRC)/tests/e2e/slurm.py --tool $(abspath $(BUILD)/avatar) --media $(BUILD)/tests/media --model $(abspath $(TINY_MODEL)) --other $(OTHER_MODEL)")
check-slurm: all $(BUILD)/tests/media $(TINY_MODEL)
	@$(RUN) $(or $(SLURM_TESTS),"echo SKIPPED: avatar was built without MPI; echo 0 passed, 0 failed, 1 skipped")
# the same over two network namespaces with a cable between them; root
check-hosts: all $(BUILD)/tests/media $(TINY_MODEL)
	@$(RUN) "$(SRC)/tests/e2e/hosts.py --tool $(abspath $(BUILD)/avatar) --media $(BUILD)/tests/media --model $(abspath $(TINY_MODEL))"
check-parity: $(BUILD)/tests/parity
	@$(RUN) "$(BUILD)/tests/parity $(or $(GOLDEN),$(SRC)/tests/gold/parity)"
check-tree: $(BUILD)/libavatar.a $(BUILD)/libavatar.so
	@$(SRC)/tests/tree.sh $(SRC) $(BUILD)

check:
	@$(SRC)/tools/setup.sh check
	@$(SRC)/tools/fresh.sh $(SRC)
	@$(AGAIN) $(JOBS) to-check
	@$(AGAIN) run-check
to-check: all build-tests simt $(BUILD)/tests/soak $(TINY_MODEL) $(OTHER_MODEL) $(if $(filter yes,$(TOOL)),$(BUILD)/tests/media)
# the parity program sees ../shared/golden too where that stands beside the tree
run-check: to-check
	@$(RUN) $(TESTS) $(foreach f,$(FUZZERS),$(call corpus_of,$(f))) $(foreach l,$(LEVELS),$(call parity_at,$(l))) \
		$(if $(wildcard $(SRC)/../shared/golden/ckpt),"$(BUILD)/tests/parity $(SRC)/../shared/golden" $(foreach p,bf16 int8 fp8,"$(BUILD)/tests/parity $(SRC)/../shared/golden --precision $p")) \
		$(foreach p,int8 fp8,"$(BUILD)/tests/parity $(SRC)/tests/gold/parity --precision $p" \
			"$(BUILD)/tests/parity $(SRC)/tests/gold/parity --precision $p --level plain") \
		"$(BUILD)/tests/parity $(SRC)/tests/gold/parity --kv fp8" "$(BUILD)/tests/parity $(SRC)/tests/gold/parity --kv fp8 --precision bf16" \
		"$(BUILD)/tests/parity $(SRC)/tests/gold/parity --device guard" $(SIMT_SHORT) \
		"$(BUILD)/tests/parity $(SRC)/tests/gold/parity --device guard --precision int8 --case dit_forward" \
		"$(BUILD)/tests/parity $(SRC)/tests/gold/parity --device guard --kv fp8 --case dit_forward" \
		$(if $(SIMT_SHORT),"$(MAKE) -s --no-print-directory check-gpu SIMT=1") \
		$(if $(filter yes,$(CUDA)),"$(SRC)/tests/simt/kinds.py $(BUILD)/libavatar_cuda.so '$(CUDA_ARCHS)'") \
		$(TOOL_TESTS) "$(BUILD)/tests/soak 60" \
		"$(SRC)/tests/tree.sh $(SRC) $(BUILD)" "$(MAKE) -s --no-print-directory check-patches" \
		"$(MAKE) -s --no-print-directory check-filter" $(MPI_TESTS) $(SLURM_TESTS) $(if $(filter yes,$(TOOL)),"$(EXAMPLES)") "$(MAKE) -s --no-print-directory check-bad" "$(SRC)/tests/e2e/build.sh $(SRC)" "$(SRC)/tests/e2e/install.sh $(SRC)" \
		"$(SRC)/tests/e2e/grown.sh $(SRC) $(BUILD) $(TINY_MODEL)"

# the works of doc/speed.md against their peers; T=op: an op at every CPU level; T=dit, vae, ...: one work; ALONE: works without peer
BENCH_OPS := $(patsubst $(SRC)/tests/kernels/%.c,%,$(wildcard $(SRC)/tests/kernels/*.c))
BENCH_O := $(call object,$(wildcard $(SRC)/tests/bench/*.c)) $(DRAW_O)
$(BUILD)/tests/bench: $(BENCH_O) $(TEST_O) $(BUILD)/libavatar.a
	$(link_test)
ALONE = open block film
bench: $(if $(filter $(BENCH_OPS),$(T)),$(BUILD)/tests/kernels/$(T),$(BUILD)/tests/bench $(if $(filter-out $(ALONE),$(or $(T),all)),bench-peers))
	@OMP_WAIT_POLICY=passive $(if $(filter $(BENCH_OPS),$(T)),$< --bench,$< $(T) --src $(SRC) $(BENCH))
# PyTorch and its networks, once; without a network the bench says that there are no peers
PEERS = $(BUILD)/bench/venv
bench-peers:
	@[ -e $(PEERS)/ready ] || { mkdir -p $(BUILD)/bench && python3 -m venv $(PEERS) && echo "getting the peers from PyPI" && \
		$(PEERS)/bin/pip install -q torch numpy safetensors diffusers transformers && touch $(PEERS)/ready; } || true

# SECONDS of live sound through one session; MODEL=DIR instead of random weights
SECONDS = 10000
soak: $(BUILD)/tests/soak
	@OMP_WAIT_POLICY=passive $(BUILD)/tests/soak $(SECONDS) $(MODEL)

# how good and how late live is, for doc/live.md
SPEECH = $(wildcard /usr/share/pocketsphinx/test/data/librivox/*.wav)
# Plans on CPU ranks, reckoned from a calibration and measured
bench-plan: $(BUILD)/avatar
	@$(SRC)/tests/bench/plan.py --tool $(BUILD)/avatar $(if $(MODEL),--model $(MODEL))
bench-live: all ffmpeg $(BUILD)/tests/live_error
	@$(BUILD)/tests/live_error --svg $(BUILD)/live_error.svg $(or $(MODEL),$(SRC)/model/nano) $(SPEECH)
	@$(BUILD)/tests/live_error --windows $(or $(MODEL),$(SRC)/model/nano) $(SPEECH) $(SPEECH) $(SPEECH) $(SPEECH) $(SPEECH)
	@$(SRC)/tests/e2e/live.py --bin $(BUILD)/ffmpeg/bin --tool $(BUILD)/avatar $(if $(MODEL),--model $(MODEL))

# On a machine with a GPU: everything that only it can tell, into doc/gpu/CARD.md. SIMT=1: on the emulated one, tiny, into build/gpu-simt
ifeq ($(SIMT),1)
check-gpu:
	@$(MAKE) -s --no-print-directory SIMT=$(BUILD)/simt check-gpu-simt
else
check-gpu: all cuda build-tests $(BUILD)/tests/gpu/stream $(BUILD)/tests/gpu/frames
	@$(SRC)/tests/gpu/check.sh $(SRC) $(BUILD) $(if $(TIME),--seconds $(TIME))
endif
# the same to be carried to a machine that has no compiler; LEAN=1: one that has the tree
gpu-kit: all cuda build-tests $(BUILD)/tests/gpu/stream $(BUILD)/tests/gpu/frames $(if $(LEAN),$(BUILD)/tests/gpu/avatar)
	@$(SRC)/tests/gpu/kit.sh $(SRC) $(BUILD) $(if $(LEAN),--lean)
# the tool without FFmpeg's libraries, which are most of a kit: verify and plan never come to a call of theirs
$(BUILD)/tests/gpu/avatar: $(TOOL_O) $(BUILD)/libavatar.a
	@mkdir -p $(@D); echo "LD      $@"
	@{ echo '#include <stdlib.h>'; nm -u $(TOOL_O) | sed -n 's/^ *U \(\(av\|avcodec\|avformat\|avio\|avutil\|swr\|sws\)_[A-Za-z0-9_]*\)$$/int \1(void) { abort(); }/p' | sort -u; } > $@.c
	@$(CC) $(CFLAGS) $(OPENMP) $(LDFLAGS) -o $@ $^ $@.c $(DLIB_LIBS) $(LIBS)
check-gpu-simt: $(addprefix $(BUILD)/simt/,avatar lib/libavatar.so.0 tests/parity tests/gpu/stream tests/kernels/rope tests/kernels/copy) \
		$(BUILD)/tests/gpu/frames $(TINY_MODEL)
	@$(SRC)/tests/gpu/check.sh $(SRC) $(BUILD) --simt

# ---- demo, install, habits -----------------------------------------------------------------------------------------------------

demo:
	@$(SRC)/tools/setup.sh demo
	@$(SRC)/tools/fresh.sh $(SRC) demo
	@echo "building the library and the tool"
	@$(AGAIN) $(JOBS) all >/dev/null
	@$(SRC)/tools/demo.sh film $(SRC) $(BUILD)
	@$(AGAIN) ffmpeg >/dev/null
	@$(SRC)/tools/demo.sh filter $(SRC) $(BUILD)
setup:
	@$(SRC)/tools/setup.sh check

NANO = nano nano-gpu nano-vae nano-audio nano-clips nano-made nano-decoder nano-dit nano-export nano-report
nano nano-gpu nano-export nano-report: $(if $(filter yes,$(TOOL)),$(BUILD)/avatar)
$(NANO):
	@$(MAKE) -C $(SRC)/tools/nano $@

# What is compiled in and written into libavatar.pc are the folders of ./configure, so no others are installed into.
moved = $(strip $(foreach v,prefix libdir includedir datadir mandir,$(if $(filter command environment,$(firstword $(origin $v))),$v)))
to = '$(subst ','\'',$(DESTDIR)$(1))'
# tree FROM TO: every file of a folder, readable for all, scripts for all to run
tree = cd $(1) && find . -type f -exec sh -c 'for f; do install -D -m $$([ -x "$$f" ] && echo 755 || echo 644) "$$f" "$$0/$$f"; done' $(2) {} +
install: all $(BUILD)/installed/libavatar.pc
	@[ -z "$(moved)" ] || { echo "make install: give $(moved) to configure, not to make: ./configure --prefix=DIR" >&2; false; }
	install -d -m 755 $(call to,$(libdir)/pkgconfig) $(call to,$(includedir)) $(call to,$(prefix)/bin) $(call to,$(mandir)/man1)
	install -m 644 $(BUILD)/libavatar.a $(call to,$(libdir))
	install -m 755 $(BUILD)/libavatar.so $(call to,$(libdir)/libavatar.so.$(LIB_VERSION))
	ln -sf libavatar.so.$(LIB_VERSION) $(call to,$(libdir)/libavatar.so.0)
	ln -sf libavatar.so.0 $(call to,$(libdir)/libavatar.so)
	[ ! -e $(BUILD)/libavatar_cuda.so ] || install -m 644 $(BUILD)/libavatar_cuda.so $(call to,$(libdir))
	[ ! -e $(BUILD)/libavatar_mpi.so ] || install -m 644 $(BUILD)/libavatar_mpi.so $(call to,$(libdir))
	install -m 644 $(SRC)/model/avatar.h $(call to,$(includedir))
	install -m 644 $(BUILD)/installed/libavatar.pc $(call to,$(libdir)/pkgconfig)
	[ ! -e $(BUILD)/avatar ] || install -m 755 $(BUILD)/avatar $(call to,$(prefix)/bin)
	install -m 644 $(BUILD)/avatar.1 $(call to,$(mandir)/man1)
	$(call tree,$(SRC)/libavfilter,$(call to,$(datadir)/avatar/libavfilter))
	install -D -m 644 $(SRC)/doc/avatar.texi $(call to,$(datadir)/avatar/doc/avatar.texi)
	$(call tree,$(SRC)/patches,$(call to,$(datadir)/avatar/patches))
	[ ! -e $(SRC)/model/nano/config.json ] || { $(call tree,$(SRC)/model/nano,$(call to,$(datadir)/avatar/nano)); }
	@[ -n $(call to,) ] || $(SRC)/tools/ldconfig.sh $(libdir)
uninstall:
	rm -f $(call to,$(libdir))/libavatar.a $(call to,$(libdir))/libavatar.so* $(call to,$(libdir))/libavatar_cuda.so $(call to,$(libdir))/libavatar_mpi.so $(call to,$(includedir)/avatar.h)
	rm -f $(call to,$(libdir)/pkgconfig/libavatar.pc) $(call to,$(prefix)/bin/avatar) $(call to,$(mandir)/man1/avatar.1)
	rm -rf $(call to,$(datadir)/avatar)

# Debian packages, in build/deb; DEBFULLNAME and DEBEMAIL name their maintainer; after ./configure --enable-cuda with that of the plugin
deb:
	+@$(SRC)/tools/deb.sh $(BUILD)/deb $(if $(filter yes,$(CUDA)),cuda)
check-deb: deb
	@$(RUN) "$(SRC)/tests/e2e/deb.sh $(BUILD)/deb"

# formats the C files that differ from HEAD
format:
	@cd $(SRC) && { git diff --name-only HEAD; git ls-files -o --exclude-standard; } | grep -E '\.(c|h|cc|cu)$$' | xargs -r clang-format -i
clean:
	rm -rf $(BUILD)/obj $(BUILD)/tests $(BUILD)/libavatar.* $(BUILD)/libavatar_cuda.so $(BUILD)/libavatar_mpi.so $(BUILD)/avatar $(BUILD)/avatar.1
distclean:
	rm -rf $(BUILD) config.h config.mak config.log

help:
	@echo "make demo            install what is missing, build, make a picture speak: demo.mp4; then FFmpeg, and the same by the filter"
	@echo "make check           install what is missing, build, run every test"
	@echo "make                 library (build/libavatar.so, .a), tool (build/avatar)"
	@echo "make cuda            build/libavatar_cuda.so: CUDA devices (doc/cuda.md); ./configure --cuda-archs=90a for one kind of card"
	@echo "make ffmpeg          build/ffmpeg/bin/ffmpeg with the filter inside"
	@echo "make install         DESTDIR and ./configure --prefix are honoured; uninstall takes it away"
	@echo "make deb             Debian packages of library, headers, tool, model: build/deb/*.deb; check-deb looks into them"
	@echo "make bench           the works of doc/speed.md against PyTorch; T=dit: one of them; T=attention: an op at every CPU level"
	@echo "make bench-plan      plans on CPU ranks, reckoned from a calibration and measured; MODEL=dir"
	@echo "make bench-live      delays of live streams, error of live features: doc/live.md; MODEL=dir"
	@echo "make check-unit | check-kernels | check-e2e  T=name     one folder of tests, or one test; check-tool, check-mpi, check-slurm, check-hosts (root), check-examples"
	@echo "make check-parity GOLDEN=dir     networks against the reference's numbers"
	@echo "make check-filter FFMPEG=7.1 | check-filter-all | check-patches"
	@echo "make check-asan | check-ubsan | check-tsan  T=name   the same under a sanitizer, in build-asan, build-ubsan, build-tsan"
	@echo "make check-bad T=part            the table of bad input: tests/e2e/bad_input/table.py"
	@echo "make check-oom       the Nth allocation fails, for every N"
	@echo "make simt            the programs with the CUDA backend on an emulated GPU, device cuda0: build/simt"
	@echo "make check-valgrind  one stream of the tool under valgrind"
	@echo "make fuzz T=name TIME=60         one fuzzer (clang); its corpus is run by make check"
	@echo "make soak SECONDS=10000 MODEL=dir   hours of live sound: memory and time stay flat"
	@echo "make check-gpu       on a machine with a GPU: all that only it can tell, into doc/gpu; SIMT=1: the same run on an emulated one"
	@echo "make gpu-kit         build/gpu-kit.tar.gz: check-gpu for a machine without a compiler; LEAN=1: that has the tree"
	@echo "make check-tree      direction of includes, headers alone, exported symbols"
	@echo "make patches         write patches/ anew from libavfilter/"
	@echo "make nano            train the embedded model (tools/nano/README.md); nano-gpu: on from the last export, in ten minutes; nano-report: measure it, into its card"
	@echo "make format | clean | distclean"

.PHONY: all no-tool cuda check-gpu check-gpu-simt gpu-kit to-check build-tests check check-unit check-kernels check-e2e check-tool check-mpi check-slurm check-hosts check-examples check-parity check-tree run-check soak bench bench-live bench-plan bench-peers demo setup install uninstall \
	deb check-deb format clean distclean help $(NANO)
-include $(CUDA_O:.o=.d) $(BENCH_O:.o=.d) $(LIB_O:.o=.d) $(TOOL_O:.o=.d) $(TESTS:$(BUILD)/%=$(BUILD)/obj/%.d) $(PARITY_O:.o=.d) $(wildcard $(BUILD)/obj/tests/*.d)
