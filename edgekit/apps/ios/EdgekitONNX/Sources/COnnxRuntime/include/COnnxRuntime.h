// ONNX Runtime's C interface, as its framework for Apple's systems and as Debian's package have it.
#ifndef EDGEKIT_ONNXRUNTIME_H
#define EDGEKIT_ONNXRUNTIME_H
#if __has_include(<onnxruntime/onnxruntime_c_api.h>)
#include <onnxruntime/onnxruntime_c_api.h>
#else
#include <onnxruntime_c_api.h>
#endif
#endif
