#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# ldconfig.sh LIBDIR: make the loader see the library that was installed there, or say what does.
PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" != 0 ] || ldconfig
ldconfig -p 2>/dev/null | grep -qF "$1/libavatar.so.0" && exit 0
echo "programs do not see $1/libavatar.so.0 yet; as root: echo $1 > /etc/ld.so.conf.d/avatar.conf && ldconfig"
