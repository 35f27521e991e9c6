#ifndef EDGEKIT_LLAMA_H
#define EDGEKIT_LLAMA_H
#if __has_include(<llama/llama.h>)
#include <llama/llama.h>
#include <llama/mtmd.h>
#else
#include <llama.h>
#include <mtmd.h>
#endif
#endif
