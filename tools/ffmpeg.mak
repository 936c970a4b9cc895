# SPDX-License-Identifier: LGPL-2.1-or-later
# The shared library, its pkg-config files, FFmpeg with the filter, the tests of both. Included by the Makefile, which sets
# SRC, BUILD, LIB_O, LIBS, OPENMP, TINY_MODEL, and prefix, libdir, includedir when configure knows them.
prefix     ?= /usr/local
libdir     ?= $(prefix)/lib
includedir ?= $(prefix)/include
FFMPEG     ?= 7.1
FFMPEG_SRC ?= $(BUILD)/ffmpeg-src

LIB_VERSION := $(shell awk '/define AVATAR_VERSION_(MAJOR|MINOR|MICRO)/ { printf "%s%s", dot, $$3; dot = "." }' $(SRC)/model/avatar.h)

# soname libavatar.so.0; only avatar_* is visible, whatever the headers of the libraries behind it say. nodelete: OpenMP's threads
# end by themselves, a moment after ours, and dlclose() must not take their code from under them.
$(BUILD)/libavatar.so: $(LIB_O) $(SRC)/model/avatar.map
	@echo "LD      $@"
	@$(CC) $(CFLAGS) -shared -Wl,-soname,libavatar.so.0 -Wl,-z,nodelete -Wl,--version-script=$(SRC)/model/avatar.map -Wl,--no-undefined \
		-o $@ $(LIB_O) $(OPENMP) $(LDFLAGS) $(LIBS)
	@ln -sf libavatar.so $(BUILD)/libavatar.so.0

# pc_file PREFIX LIBDIR INCLUDEDIR RPATH; the file is left alone when nothing changed, as FFmpeg is configured anew otherwise
pc_file = @sed -e 's|@PREFIX@|$(1)|; s|@LIBDIR@|$(2)|; s|@INCLUDEDIR@|$(3)|; s|@VERSION@|$(LIB_VERSION)|; s|@RPATH@|$(4)|' \
	-e 's|@LIBS@|$(LIBS) $(OPENMP)|' $(SRC)/tools/libavatar.pc.in >$@.new; cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(BUILD)/libavatar.pc: $(SRC)/tools/libavatar.pc.in config.mak $(BUILD)/libavatar.so
	$(call pc_file,$(abspath $(BUILD)),$(abspath $(BUILD)),$(abspath $(SRC)/model), -Wl$(comma)-rpath$(comma)$(abspath $(BUILD)))
$(BUILD)/installed/libavatar.pc: $(SRC)/tools/libavatar.pc.in config.mak
	@mkdir -p $(@D)
	$(call pc_file,$(prefix),$(libdir),$(includedir),)
comma := ,

BUILD_FFMPEG = $(SRC)/tools/build-ffmpeg.sh --libavatar $(BUILD) --cache $(FFMPEG_SRC) --work $(BUILD)/ffmpeg-build
ffmpeg_dir = $(BUILD)/ffmpeg$(if $(filter 7.1,$(1)),,-$(notdir $(1)))
ffmpeg_from = $(if $(wildcard $(1)/configure),--source $(1),--version $(1))

ffmpeg: $(BUILD)/libavatar.pc
	@$(BUILD_FFMPEG) --prefix $(BUILD)/ffmpeg

# FFMPEG=7.1 (a series or release) or FFMPEG=DIR (a source tree, which is copied). The build's exit code 77: no source here.
check-filter: $(BUILD)/libavatar.pc $(TINY_MODEL)
	@$(BUILD_FFMPEG) $(call ffmpeg_from,$(FFMPEG)) --prefix $(call ffmpeg_dir,$(FFMPEG)) >/dev/null; ret=$$?; \
	if [ $$ret = 77 ]; then \
		echo "SKIPPED the filter in FFmpeg $(FFMPEG): its source cannot be had here"; echo "0 passed, 0 failed, 1 skipped"; \
	else \
		[ $$ret = 0 ] && $(SRC)/tests/e2e/filter/run.py --bin $(call ffmpeg_dir,$(FFMPEG))/bin --model $(abspath $(TINY_MODEL)) \
			--tool $(BUILD)/avatar $(if $(SIMT_LIB),--simt $(dir $(SIMT_LIB))) $(T); \
	fi

check-filter-all:
	@for v in $$(awk '!/^#/ && NF { print $$1 }' $(SRC)/patches/series.txt); do \
		$(MAKE) -s --no-print-directory check-filter FFMPEG=$$v || exit 1; \
	done

# rewrite patches/ after a change of the filter, its manual section or gen.sh
patches:
	@$(SRC)/patches/gen.sh --all $(FFMPEG_SRC)

check-patches: $(BUILD)/libavatar.pc
	@$(SRC)/tests/e2e/filter/patches.sh --cache $(FFMPEG_SRC) --work $(BUILD)/ffmpeg-build --libavatar $(BUILD)

.PHONY: ffmpeg patches check-filter check-filter-all check-patches
