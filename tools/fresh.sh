#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# fresh.sh SRC [demo]: configure this folder, if that was not done, or if something that was not found then may have come since.
set -eu
[ ! -e config.mak ] || ! grep -q '^MISSED =$' config.mak || exit 0
args=$(sed -n 's/^CONFIGURE =//p' config.mak 2>/dev/null || true)
eval "'$1/configure' $args" >/dev/null
missed=$(sed -n 's/^MISSED = //p' config.mak)
[ "${2:-}" != demo ] || missed=$(echo $missed | sed 's/ *tests$//')       # which it does not want
[ -z "$missed" ] || echo "not found on this machine, so left out: $missed (config.log says why)" >&2
