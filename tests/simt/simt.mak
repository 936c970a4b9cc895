# SPDX-License-Identifier: LGPL-2.1-or-later
# The CUDA backend on a GPU that is emulated on the CPU: build/simt. Included by the Makefile, which sets SRC, BUILD, LIB_C, LIB_O,
# TESTS, TEST_O, PARITY_O, TOOL_O and `object`.
#
# make simt       build/simt/avatar, build/simt/tests/parity, build/simt/tests/kernels/*, ...: the programs of build/ with the backend and
#                 tests/simt (runtime, cuBLASLt, cuDNN in place of NVIDIA's) linked in, so that device cuda0 is there
# make check-simt       bed, backend, every op, every golden, plans, films through it, in three schedules; run-simt: the short set, once, as
#                       in make check: each case of an op in one type, the committed golden, two plans, a film in bf16,
#                       check-engines
# make check-faults     plants typical bugs into our kernels and backend and sees that these tests find them: into doc/cuda.md
# make check-cards      films over processes with an emulated GPU each, under mpirun
# make check-engines    the engines of cuDNN's double against the real library's plans, without a device; T=90: one architecture
# make cuda-table       what the compiler says of each kernel: into doc/cuda.md
#
# Kernels are compiled with -fsanitize=thread, whose hooks tests/simt defines: every access of theirs is seen. What does not know of
# CUDA is linked as it stands in build/obj.

SIMT = $(BUILD)/simt
comma := ,
CUDA_INC ?= $(or $(wildcard $(CUDA_HOME)/include),$(CUDA_HOME)/include)
SIMT_CAN := $(if $(and $(wildcard $(CUDA_INC)/cuda_runtime.h),$(wildcard $(CUDA_INC)/cublasLt.h),$(wildcard $(CUDA_INC)/cudnn.h)),yes)

SIMT_CU := $(sort $(wildcard $(SRC)/kernels/cuda/*.cu))
SIMT_BED := $(filter-out %_test.cpp,$(sort $(wildcard $(SRC)/tests/simt/*.cpp))) $(if $(SIMT_CU),$(SRC)/tests/simt/spy.c)
# files of the library that are another when the backend is linked in
SIMT_C := $(if $(SIMT_CU),$(shell grep -l CUDA_LINKED $(LIB_C)))
simt_object = $(patsubst $(SRC)/%,$(SIMT)/obj/%.o,$(basename $(1)))
SIMT_KERNELS_O := $(call simt_object,$(SIMT_CU))
SIMT_BED_O := $(call simt_object,$(SIMT_BED))
SIMT_O := $(filter-out $(call object,$(SIMT_C)),$(LIB_O)) $(call simt_object,$(SIMT_C)) $(SIMT_KERNELS_O) $(SIMT_BED_O)
SIMT_TESTS := $(patsubst $(BUILD)/%,$(SIMT)/%,$(filter $(BUILD)/tests/kernels/% $(BUILD)/tests/e2e/plans $(BUILD)/tests/e2e/teams $(BUILD)/tests/e2e/precision,$(TESTS)))
SIMT_NCCL := $(if $(and $(SIMT_CU),$(wildcard $(CUDA_INC)/nccl.h)),$(SIMT)/tests/nccl)
# of the backend alone
SIMT_OWN := $(if $(SIMT_CU),$(addprefix $(SIMT)/tests/,backend tune choice weights lora peers) $(SIMT_NCCL))
SIMT_ALL := $(SIMT)/tests/bed $(SIMT_OWN) $(SIMT)/tests/parity $(SIMT)/tests/mkmodel $(SIMT_TESTS) $(if $(SIMT_CU),$(SIMT)/lib/libavatar.so.0 $(BUILD)/tests/gpu/frames $(TINY_MODEL)) $(if $(filter yes,$(TOOL)),$(SIMT)/avatar)

ifeq ($(SIMT_CAN),yes)
simt: $(SIMT_ALL)
else
simt:
	@echo "SKIPPED: the emulated GPU wants the headers of the CUDA toolkit, cuBLASLt and cuDNN"
endif

# No contraction, as on the CPU. What a kernel does costs little beside the
# look at its accesses, so kernels are not optimized hard.
SIMT_CXX = $(CXX) -std=c++17 -g1 -fPIC -fno-semantic-interposition -Wall -Wextra -isystem $(CUDA_INC) -I$(SRC)/tests/simt $(INC) -MMD -MP
SIMT_AS_KERNEL = $(SIMT_CXX) -O1 -x c++ -DAVT_SIMT -fsanitize=thread -ffp-contract=off -Wno-unknown-pragmas
$(SIMT)/obj/kernels/cuda/%.o: $(SRC)/kernels/cuda/%.cu config.h
	@mkdir -p $(@D); echo "SIMT    $<"
	@$(SIMT_AS_KERNEL) -c -o $@ $<
$(SIMT)/obj/tests/simt/%.o: $(SRC)/tests/simt/%.cu
	@mkdir -p $(@D); echo "SIMT    $<"
	@$(SIMT_AS_KERNEL) -c -o $@ $<
# what stands for libraries should not be what the tests wait for
$(SIMT)/obj/tests/simt/products.o: SIMT_FAST = -O3 -march=native -fopenmp-simd
$(SIMT)/obj/tests/simt/%.o: $(SRC)/tests/simt/%.cpp
	@mkdir -p $(@D); echo "CXX     $<"
	@$(SIMT_CXX) $(or $(SIMT_FAST),-O2) -c -o $@ $<
$(SIMT)/obj/tests/simt/%.o: $(SRC)/tests/simt/%.c
	@mkdir -p $(@D); echo "CC      $<"
	@$(CC) $(FLAGS) -I$(SRC)/tests/simt -I$(SRC)/tests -isystem $(CUDA_INC) -MMD -MP -c -o $@ $<
$(SIMT)/obj/%.o: $(SRC)/%.c config.h
	@mkdir -p $(@D); echo "CC      $< (linked CUDA)"
	@$(CC) $(FLAGS) -DCUDA_LINKED -isystem $(CUDA_INC) -MMD -MP -c -o $@ $<

$(SIMT)/libavatar.a: $(SIMT_O)
	@echo "AR      $@"
	@mkdir -p $(@D) && rm -f $@ && ar rcs $@ $^
SIMT_LINKER = $(CXX) $(if $(SIMT_CU),-Wl$(comma)--wrap=avt_backend_cuda_open) $(CFLAGS) $(OPENMP)
SIMT_LINK = @mkdir -p $(@D); echo "LD      $@"; $(SIMT_LINKER) -o $@ $(filter %.o %.a,$^)
$(SIMT)/tests/bed: $(SIMT)/obj/tests/simt/bed_test.o $(filter-out %/spy.o,$(SIMT_BED_O))
	@mkdir -p $(@D); echo "LD      $@"; $(CXX) -o $@ $^ -lpthread
$(SIMT_OWN): $(SIMT)/tests/%: $(SIMT)/obj/tests/simt/%_test.o $(TEST_O) $(SIMT)/libavatar.a
	$(SIMT_LINK) $(LIBS) -lcmocka -lpng
# The library with the emulated GPU in it, for programs that are linked with libavatar.so; the driver is found in the same file.
SIMT_LIB := $(if $(filter yes,$(SIMT_CAN)),$(if $(SIMT_CU),$(SIMT)/lib/libavatar.so.0))
check-filter: $(SIMT_LIB)
$(SIMT)/lib/libavatar.so.0: $(SIMT_O) $(SRC)/tests/simt/driver.map
	@mkdir -p $(@D); echo "LD      $@"; $(SIMT_LINKER) -shared -Wl,-soname,libavatar.so.0 -Wl,-z,nodelete \
		-Wl,--version-script=$(SRC)/tests/simt/driver.map -o $@ $(SIMT_O) $(LIBS) && ln -sf libavatar.so.0 $(@D)/libcuda.so.1
$(SIMT)/avatar: $(TOOL_O) $(SIMT)/libavatar.a
	$(SIMT_LINK) $(LIBAV_LIBS) $(DLIB_LIBS) $(LIBS)
$(SIMT)/tests/parity: $(PARITY_O) $(TEST_O) $(SIMT)/libavatar.a
	$(SIMT_LINK) $(LIBS) -lcmocka -lpng
$(SIMT)/tests/%: $(BUILD)/obj/tests/%.o $(TEST_O) $(SIMT)/libavatar.a
	$(SIMT_LINK) $(LIBS) -lcmocka -lpng

# ---- tests ----------------------------------------------------------------------------------------------------------------

# frames that stay on the GPU: whole ones, of two devices as well, one decoding or both; who does not wait before the next is found
simt_frames = LD_LIBRARY_PATH=$(SIMT)/lib $(BUILD)/tests/gpu/frames --tiny
SIMT_FRAMES = "$(simt_frames)" "$(simt_frames) --devices 'cuda0|cuda1' --plan layer --vae-device cuda1 --vae-split 1" \
	"SIMT_PEERS=off $(simt_frames) --devices 'cuda0|cuda1' --plan layer --vae-split 2" \
	"$(simt_frames) --careless 2>&1 | grep -q race-streams && echo 1 passed, 0 failed"
SIMT_GOLD := $(wildcard $(SRC)/../shared/golden/ckpt)
simt_parity = $(foreach p,f32 bf16,"$(SIMT)/tests/parity $(1) --device cuda0 --precision $(p)")
# codes: the layers' products, keys and values, and on a card where cuDNN multiplies them first
SIMT_CODES = $(foreach p,int8 fp8,"$(SIMT)/tests/parity $(SRC)/tests/gold/parity --device cuda0 --precision $p --case dit_forward") \
	"$(SIMT)/tests/parity $(SRC)/tests/gold/parity --device cuda0 --precision bf16 --kv fp8 --case dit_forward" \
	"SIMT_ARCH=80 $(SIMT)/tests/kernels/quantize --device cuda0 --sample" "SIMT_ARCH=120 $(SIMT)/tests/kernels/quantize --device cuda0 --sample"
simt_on = $(foreach t,$(SIMT_TESTS),"$(t) --device cuda0$(1)")
SIMT_BOTH = $(SIMT_OWN) $(SIMT_FRAMES) $(call simt_parity,$(SRC)/tests/gold/parity)
# plans over three devices of their own, which reach each other's memory or do not
simt_apart = $(foreach p,on off,$(foreach t,plans teams,"SIMT_DEVICES=3 SIMT_PEERS=$(p) $(SIMT)/tests/e2e/$(t) --device 'cuda0|cuda1|cuda2'$(1)"))
SIMT_SHORT = $(if $(filter yes,$(SIMT_CAN)),$(SIMT)/tests/bed $(SIMT_BOTH) $(SIMT_CODES) $(call simt_on, --sample) $(call simt_apart, --sample) \
	$(if $(wildcard $(CUDA_HOME)/lib/libcudnn.so),"$(MAKE) -s --no-print-directory check-engines"))
SIMT_LONG = $(SIMT_BOTH) $(SIMT_CODES) $(if $(SIMT_GOLD),$(call simt_parity,$(SIMT_GOLD:%/ckpt=%))) $(call simt_on) $(call simt_apart)

ifeq ($(SIMT_CAN),yes)
run-simt: simt
	@$(RUN) $(SIMT_SHORT)
check-simt: simt
	@$(RUN) $(SIMT)/tests/bed
	@for how in "eager forward" "lazy reverse" "random random"; do set -- $$how; echo "-- work is run $$1, threads $$2"; \
		SIMT_SCHEDULE=$$1 SIMT_ORDER=$$2 SIMT_SEED=7 $(RUN) --limit 3600 $(SIMT_LONG) || exit 1; done
check-faults: simt
	@$(SRC)/tests/simt/faults.py --src $(SRC) --build $(BUILD) --compile '$(SIMT_AS_KERNEL)' --cc '$(CC) $(FLAGS)' --link '$(SIMT_LINKER)' --parts '$(TEST_O)' \
		--libs '$(LIBS) -lcmocka -lpng' --write $(SRC)/doc/cuda.md $(T)
else
run-simt check-simt check-faults: simt
	@echo "0 passed, 0 failed, 1 skipped"
endif
check-cards: simt $(BUILD)/tests/media $(TINY_MODEL) $(OTHER_MODEL) $(if $(MPI_TESTS),$(BUILD)/libavatar_mpi.so)
	@$(if $(and $(SIMT_NCCL),$(MPI_TESTS)),cp $(BUILD)/libavatar_mpi.so $(SIMT) && $(RUN) "$(SRC)/tests/simt/cards.py --tool $(abspath $(SIMT)/avatar) --media $(BUILD)/tests/media --model $(abspath $(TINY_MODEL)) --other $(abspath $(OTHER_MODEL))",echo "0 passed, 0 failed, 1 skipped")
# the real cuDNN is asked, without a driver: a stand-in answers that every kernel was loaded
CUDA_LIB = $(CUDA_HOME)/lib
$(SIMT)/no_driver/libcuda.so.1: $(SRC)/tests/simt/no_driver.c
	@mkdir -p $(@D); echo "CC      $@"
	@own=$$(sed -n 's/^CUresult \(cu[A-Za-z]*\)(.*/\1/p' $<); for f in $$(nm -D --defined-only $(CUDA_LIB)/stubs/libcuda.so | awk '$$3 ~ /^cu/ { print $$3 }'); do \
		case " $$(echo $$own) " in *" $$f "*) ;; *) echo "__asm__(\".globl $$f; .type $$f,@function; $$f: movl \$$100,%eax; ret\");" ;; esac; done > $(@D)/no_driver_rest.h
	@$(CC) -shared -fPIC -O1 -isystem $(CUDA_INC) -I$(@D) -Wl,-soname,libcuda.so.1 -o $@ $<
$(SIMT)/tests/engines: $(SRC)/tests/simt/engines_test.cpp $(SRC)/tests/simt/engines.cpp $(SRC)/tests/simt/products.cpp $(SRC)/tests/simt/graph.h
	@mkdir -p $(@D); echo "LD      $@"
	@$(CXX) -std=c++17 -O1 -Wall -Wextra -fopenmp-simd -isystem $(CUDA_INC) -o $@ $(filter %.cpp,$^) -L$(CUDA_LIB) -lcudnn -lcudnn_graph -Wl,-rpath-link,$(CUDA_LIB)
check-engines: $(SIMT)/tests/engines $(SIMT)/no_driver/libcuda.so.1
	@$(RUN) --limit 3600 "LD_LIBRARY_PATH=$(SIMT)/no_driver:$(CUDA_LIB) $(SIMT)/tests/engines $(T)"
cuda-table:
	@$(SRC)/tests/simt/static.py --nvcc $(NVCC) --src $(SRC) --work $(SIMT)/static --write $(SRC)/doc/cuda.md

.PHONY: simt run-simt check-simt check-faults check-cards check-engines cuda-table
-include $(SIMT_KERNELS_O:.o=.d) $(SIMT_BED_O:.o=.d) $(wildcard $(SIMT)/obj/tests/simt/*_test.d) $(patsubst %.o,%.d,$(call simt_object,$(SIMT_C)))
