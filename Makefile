# SPDX-License-Identifier: LGPL-2.1-or-later
ifeq ($(SRC),)
include config.mak
endif
BUILD = build
VPATH = $(SRC)

LIB_C := $(sort $(wildcard $(addprefix $(SRC)/,kernels/*.c kernels/base/*.c kernels/cpu/*.c kernels/dry/*.c kernels/comm/*.c model/files/*.c model/nets/*.c model/engine/*.c)))
LIB_CXX := $(wildcard $(SRC)/model/nets/*.cc)
LIB_O := $(patsubst $(SRC)/%.c,$(BUILD)/obj/%.o,$(LIB_C)) $(patsubst $(SRC)/%.cc,$(BUILD)/obj/%.o,$(LIB_CXX))
INC = -I. -I$(SRC)/kernels -I$(SRC)/model -I$(SRC)
FLAGS = $(CFLAGS) -std=c11 -D_GNU_SOURCE -fPIC -Wall -Wextra $(OPENMP) $(INC) -MMD -MP

all: $(BUILD)/libavatar.a $(BUILD)/avatar

# the tool: libav* of the system
TOOL_O := $(patsubst $(SRC)/%.c,$(BUILD)/obj/%.o,$(wildcard $(SRC)/tools/*.c))
LIBAV = libavformat libavcodec libavutil libswscale libswresample
$(BUILD)/obj/tools/%.o: FLAGS += -I$(SRC)/tools $(shell pkg-config --cflags $(LIBAV))
$(BUILD)/avatar: $(TOOL_O) $(BUILD)/libavatar.a
	$(CC) $(FLAGS) -o $@ $^ $(shell pkg-config --libs $(LIBAV)) $(LIBS)
-include $(TOOL_O:.o=.d)

config.h: $(SRC)/configure $(wildcard $(SRC)/kernels/cpu/*onednn.c $(SRC)/kernels/cpu/*avx2.c $(SRC)/kernels/cpu/*avx512.c $(SRC)/kernels/cpu/*guard.c)
	$(SRC)/configure

$(BUILD)/obj/kernels/cpu/%.o: FLAGS += -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math
$(BUILD)/obj/%_avx2.o: FLAGS += -mavx2 -mfma -mf16c
$(BUILD)/obj/%_avx512.o: FLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c
$(BUILD)/obj/%.o: $(SRC)/%.c config.h
	@mkdir -p $(@D)
	$(CC) $(FLAGS) -c -o $@ $<
$(BUILD)/obj/%.o: $(SRC)/%.cc config.h
	@mkdir -p $(@D)
	$(CXX) -O2 -g -fPIC -Wall -Wextra $(INC) -MMD -MP -c -o $@ $<

$(BUILD)/libavatar.a: $(LIB_O)
	rm -f $@ && ar rcs $@ $^

include $(SRC)/tools/ffmpeg.mak

# tests: one program per file
TESTS_C := $(wildcard $(SRC)/tests/unit/*.c $(SRC)/tests/kernels/*.c $(SRC)/tests/e2e/*.c)
TESTS := $(patsubst $(SRC)/tests/%.c,$(BUILD)/tests/%,$(TESTS_C))
$(BUILD)/tests/%: $(SRC)/tests/%.c $(BUILD)/obj/tests/test.o $(BUILD)/obj/tests/model.o $(BUILD)/libavatar.a
	@mkdir -p $(@D)
	$(CC) $(FLAGS) -I$(SRC)/tests -o $@ $< $(BUILD)/obj/tests/test.o $(BUILD)/obj/tests/model.o $(BUILD)/libavatar.a $(LIBS) -lcmocka
$(BUILD)/obj/tests/%.o: FLAGS += -I$(SRC)/tests
$(BUILD)/tests/parity: $(patsubst $(SRC)/%.c,$(BUILD)/obj/%.o,$(wildcard $(SRC)/tests/parity/*.c)) $(BUILD)/obj/tests/test.o $(BUILD)/libavatar.a
	@mkdir -p $(@D)
	$(CC) $(FLAGS) -o $@ $^ $(LIBS) -lcmocka -lpng
$(BUILD)/tests/mkmodel: $(BUILD)/obj/tests/mkmodel.o $(BUILD)/obj/tests/model.o $(BUILD)/obj/tests/test.o $(BUILD)/libavatar.a
	@mkdir -p $(@D)
	$(CC) $(FLAGS) -o $@ $^ $(LIBS) -lcmocka
check-build: $(TESTS) $(BUILD)/tests/parity $(BUILD)/tests/mkmodel
check: check-build
	@for t in $(TESTS); do $$t || exit 1; done
	@$(BUILD)/tests/parity $(SRC)/tests/gold/parity
clean:
	rm -rf $(BUILD)
.PHONY: all check check-build clean
-include $(LIB_O:.o=.d)
