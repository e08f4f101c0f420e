#ifndef VALIANT_CLZF_SHIM_H
#define VALIANT_CLZF_SHIM_H

#include <lzf.h>

#endif
