# SPDX-License-Identifier: LGPL-2.1-or-later
# The CUDA backend on a GPU that is emulated on the CPU: build/simt. Included by the Makefile, which sets SRC, BUILD, LIB_C, LIB_O,
# TESTS, TEST_O, PARITY_O, TOOL_O and `object`.
#
# make simt       build/simt/avatar, build/simt/tests/parity, build/simt/tests/kernels/*, ...: the programs of build/ with the backend and
#                 tests/simt (runtime, cuBLASLt, cuDNN in place of NVIDIA's) linked in, so that device cuda0 is there
#
# Kernels are compiled with -fsanitize=thread, whose hooks tests/simt defines: every access of theirs is seen. What does not know of
# CUDA is linked as it stands in build/obj.

SIMT = $(BUILD)/simt
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(NVCC))
CUDA_INC ?= $(or $(wildcard $(CUDA_HOME)/include),$(CUDA_HOME)/include)
SIMT_CAN := $(if $(and $(wildcard $(CUDA_INC)/cuda_runtime.h),$(wildcard $(CUDA_INC)/cublasLt.h),$(wildcard $(CUDA_INC)/cudnn.h)),yes)

SIMT_CU := $(sort $(wildcard $(SRC)/kernels/cuda/*.cu))
SIMT_CPP := $(sort $(wildcard $(SRC)/tests/simt/*.cpp))
# files of the library that are another when the backend is linked in
SIMT_C := $(if $(SIMT_CU),$(shell grep -l CUDA_LINKED $(LIB_C)))
simt_object = $(patsubst $(SRC)/%,$(SIMT)/obj/%.o,$(basename $(1)))
SIMT_KERNELS_O := $(call simt_object,$(SIMT_CU))
SIMT_BED_O := $(call simt_object,$(SIMT_CPP))
SIMT_O := $(filter-out $(call object,$(SIMT_C)),$(LIB_O)) $(call simt_object,$(SIMT_C)) $(SIMT_KERNELS_O) $(SIMT_BED_O)
SIMT_TESTS := $(patsubst $(BUILD)/%,$(SIMT)/%,$(filter $(BUILD)/tests/kernels/% $(BUILD)/tests/e2e/% $(BUILD)/tests/unit/golden,$(TESTS)))
SIMT_ALL := $(SIMT)/tests/parity $(SIMT)/tests/mkmodel $(SIMT_TESTS) $(if $(filter yes,$(TOOL)),$(SIMT)/avatar)

ifeq ($(SIMT_CAN),yes)
simt: $(SIMT_ALL)
else
simt:
	@echo "SKIPPED: the emulated GPU wants the headers of the CUDA toolkit, cuBLASLt and cuDNN"
endif

# fixed addresses of code, so that a report can name the line; no contraction, as on the CPU
SIMT_CXX = $(CXX) -std=c++17 -O2 -g -fno-pie -Wall -Wextra -isystem $(CUDA_INC) -I$(SRC)/tests/simt $(INC) -MMD -MP
$(SIMT)/obj/kernels/cuda/%.o: $(SRC)/kernels/cuda/%.cu config.h
	@mkdir -p $(@D); echo "SIMT    $<"
	@$(SIMT_CXX) -x c++ -DAVT_SIMT -fsanitize=thread -ffp-contract=off -Wno-unknown-pragmas -c -o $@ $<
$(SIMT)/obj/tests/simt/%.o: $(SRC)/tests/simt/%.cpp
	@mkdir -p $(@D); echo "CXX     $<"
	@$(SIMT_CXX) -O3 -Wno-cast-function-type -c -o $@ $<
$(SIMT)/obj/%.o: $(SRC)/%.c config.h
	@mkdir -p $(@D); echo "CC      $< (linked CUDA)"
	@$(CC) $(FLAGS) -DCUDA_LINKED -isystem $(CUDA_INC) -MMD -MP -c -o $@ $<

$(SIMT)/libavatar.a: $(SIMT_O)
	@echo "AR      $@"
	@mkdir -p $(@D) && rm -f $@ && ar rcs $@ $^
SIMT_LINK = @mkdir -p $(@D); echo "LD      $@"; $(CXX) -no-pie $(CFLAGS) $(OPENMP) -o $@ $(filter %.o %.a,$^)
$(SIMT)/avatar: $(TOOL_O) $(SIMT)/libavatar.a
	$(SIMT_LINK) $(LIBAV_LIBS) $(LIBS)
$(SIMT)/tests/parity: $(PARITY_O) $(TEST_O) $(SIMT)/libavatar.a
	$(SIMT_LINK) $(LIBS) -lcmocka -lpng
$(SIMT)/tests/%: $(BUILD)/obj/tests/%.o $(TEST_O) $(SIMT)/libavatar.a
	$(SIMT_LINK) $(LIBS) -lcmocka -lpng

.PHONY: simt
-include $(SIMT_KERNELS_O:.o=.d) $(SIMT_BED_O:.o=.d) $(patsubst %.o,%.d,$(call simt_object,$(SIMT_C)))
