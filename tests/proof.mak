# SPDX-License-Identifier: LGPL-2.1-or-later
# Sanitizers, failing allocations, fuzzers, bad input. Included by the Makefile, which sets SRC, BUILD, RUN, TESTS, link_test.
#
# Sanitizers and fuzzers build in folders of their own, build-NAME, through configure. The thread sanitizer does without OpenMP and
# oneDNN (whose threads are OpenMP's): it cannot see how libgomp synchronizes. tests/tsan.supp says what else it is told.

HERE := $(abspath $(SRC))

FUZZ_C := $(filter-out %/run_corpus.c,$(sort $(wildcard $(SRC)/tests/fuzz/*.c)))
FUZZERS := $(patsubst $(SRC)/tests/fuzz/%.c,%,$(FUZZ_C))
CORPUS_TESTS := $(FUZZERS:%=$(BUILD)/tests/fuzz/%)

RUN_CORPUS_O := $(BUILD)/obj/tests/fuzz/run_corpus.o
$(CORPUS_TESTS): $(BUILD)/tests/fuzz/%: $(BUILD)/obj/tests/fuzz/%.o $(RUN_CORPUS_O) $(TEST_O) $(BUILD)/libavatar.a
	$(link_test)
corpus_of = "$(BUILD)/tests/fuzz/$(1) $(SRC)/tests/fuzz/corpus/$(1)"

LEVELS = plain onednn avx2 avx512 amx
parity_at = "$(BUILD)/tests/parity $(SRC)/tests/gold/parity --level $(1)" "$(BUILD)/tests/parity $(SRC)/tests/gold/parity --level $(1) --precision bf16"

# ---- sanitizers -----------------------------------------------------------------------------------------------------------

SANITIZERS = asan ubsan tsan
flags_asan = -O1 -fsanitize=address -fno-omit-frame-pointer
flags_ubsan = -O1 -fsanitize=undefined -fno-sanitize-recover=all
flags_tsan = -O1 -fsanitize=thread
configure_tsan = --disable-openmp --disable-onednn
env_asan = ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1:allocator_may_return_null=1
env_ubsan = UBSAN_OPTIONS=print_stacktrace=1
env_tsan = TSAN_OPTIONS=suppressions=$(HERE)/tests/tsan.supp:halt_on_error=1

# gcc before 14 aligns what it moves from the stack to the heap, to find its use after a return, to 32 bytes, whatever the vectors there want:
# a crash at random (its bug 110027).
ifneq (,$(findstring -fsanitize=address ,$(CFLAGS)))
$(BUILD)/obj/%_avx512.o $(BUILD)/obj/%_amx.o: CFLAGS += --param asan-use-after-return=0
endif

in_folder = mkdir -p build-$(1) && cd build-$(1) && \
	$(HERE)/configure --disable-cuda --disable-mpi --extra-cflags="$(flags_$(1))" $(configure_$(1))

$(SANITIZERS:%=check-%): check-%:
	@($(call in_folder,$*)) >/dev/null
	@$(env_$*) $(MAKE) -s --no-print-directory -C build-$* run-sanitized SANITIZER=$*

# What a run of one sanitizer covers: everything that is ours and in C.
run-sanitized: build-tests $(CORPUS_TESTS)
	@$(RUN) --limit 3600 $(call one,$(TESTS)) $(if $(T),,$(foreach f,$(FUZZERS),$(call corpus_of,$(f))) \
		"$(BUILD)/tests/parity $(SRC)/tests/gold/parity" \
		"$(BUILD)/tests/parity $(SRC)/tests/gold/parity --device guard")

# ---- memory ---------------------------------------------------------------------------------------------------------------

check-oom: $(BUILD)/tests/e2e/oom
	@$(RUN) --limit 3600 "$(BUILD)/tests/e2e/oom --all"

# One stream, from files to frames: half a second of sound takes valgrind minutes.
VALGRIND = valgrind --quiet --leak-check=full --errors-for-leak-kinds=definite --show-leak-kinds=definite --error-exitcode=9
MAKE_TALK = import sys; sys.path.insert(0, "$(SRC)/tests/e2e/filter"); import media; \
	media.wav("$(BUILD)/tests/v.wav", 8000); media.png("$(BUILD)/tests/v.png")
check-valgrind: $(BUILD)/avatar $(TINY_MODEL)
	@python3 -c '$(MAKE_TALK)'
	@$(VALGRIND) $(BUILD)/avatar speak $(BUILD)/tests/v.wav $(BUILD)/tests/v.png --model $(TINY_MODEL) --size 64x64 --steps 1 \
		--cpu_threads 1 --seed 7 -o $(BUILD)/tests/v.nut

# ---- fuzzers --------------------------------------------------------------------------------------------------------------

TIME ?= 60
flags_fuzz = -O1 -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize=vptr -fno-sanitize-recover=all -fno-omit-frame-pointer
configure_fuzz = --cc=clang --cxx=clang++ --disable-openmp
env_fuzz = ASAN_OPTIONS=allocator_may_return_null=1:detect_stack_use_after_return=0

# The ops are loops over numbers, which check-asan and check-ubsan look into; here they would take 30 s of a session's minute.
ifneq (,$(findstring fuzzer-no-link,$(CFLAGS)))
$(BUILD)/obj/kernels/cpu/%.o: CFLAGS += -O2 -fno-sanitize=all
endif

# make fuzz T=name TIME=seconds; what it finds stays in build-fuzz/found/name, with what it learned in build-fuzz/corpus/name
fuzz:
	@[ -e $(SRC)/tests/fuzz/$(T).c ] || { echo "make fuzz T=name TIME=seconds; names: $(FUZZERS)" >&2; exit 2; }
	@($(call in_folder,fuzz)) >/dev/null
	@$(env_fuzz) $(MAKE) -s --no-print-directory -C build-fuzz run-fuzz T=$(T) TIME=$(TIME)

run-fuzz: $(BUILD)/fuzz/$(T)
	@mkdir -p corpus/$(T) found/$(T)
	@$(BUILD)/fuzz/$(T) -max_total_time=$(TIME) -timeout=60 -rss_limit_mb=3000 -print_final_stats=1 -artifact_prefix=found/$(T)/ \
		$(FUZZ_OPTIONS) corpus/$(T) $(wildcard $(SRC)/tests/fuzz/corpus/$(T))
$(BUILD)/fuzz/%: $(BUILD)/obj/tests/fuzz/%.o $(TEST_O) $(BUILD)/libavatar.a
	@mkdir -p $(@D); echo "LD      $@"
	@$(CC) $(CFLAGS) -fsanitize=fuzzer -o $@ $(filter %.o %.a,$^) $(LIBS) -lcmocka -lpng

# ---- bad input ------------------------------------------------------------------------------------------------------------

check-bad: $(BUILD)/avatar $(BUILD)/libavatar.pc $(TINY_MODEL)
	@$(BUILD_FFMPEG) $(call ffmpeg_from,$(FFMPEG)) --prefix $(call ffmpeg_dir,$(FFMPEG)) >/dev/null
	@$(SRC)/tests/e2e/bad_input/run.py --bin $(call ffmpeg_dir,$(FFMPEG))/bin --model $(abspath $(TINY_MODEL)) \
		--tool $(BUILD)/avatar $(T)

.PHONY: check-asan check-ubsan check-tsan run-sanitized check-oom check-valgrind fuzz run-fuzz check-bad
-include $(CORPUS_TESTS:$(BUILD)/%=$(BUILD)/obj/%.d)
