#ifndef VALIANT_CLIBMD_SHIM_H
#define VALIANT_CLIBMD_SHIM_H

#include <sys/types.h>
#include <sha1.h>

#endif
