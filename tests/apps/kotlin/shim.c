/* JNI over ONNX Runtime's C API: what ort/ai/onnxruntime/Shim.java declares, for tests on the JVM.
 *
 * The API is a struct of function pointers whose places never change (onnxruntime_c_api.h: "new functions are always
 * added at the end"), so the few that are used are named here by their places and no header is needed. */
#include <dlfcn.h>
#include <jni.h>
#include <stdint.h>
#include <stdlib.h>

enum {
  GET_ERROR_MESSAGE = 2, CREATE_ENV = 3, CREATE_SESSION = 7, RUN = 9, CREATE_SESSION_OPTIONS = 10,
  SET_INTRA_THREADS = 24, SET_INTER_THREADS = 25, CREATE_TENSOR_WITH_DATA = 49, GET_TENSOR_DATA = 51,
  GET_DIMENSIONS_COUNT = 61, GET_DIMENSIONS = 62, GET_ELEMENT_COUNT = 64, GET_TYPE_AND_SHAPE = 65,
  CREATE_CPU_MEMORY_INFO = 69, RELEASE_STATUS = 93, RELEASE_SESSION = 95, RELEASE_VALUE = 96, RELEASE_INFO = 99,
  RELEASE_OPTIONS = 100
};

typedef void *(*Call)();
typedef struct { const Call *(*get_api)(uint32_t); const char *(*version)(void); } Base;
static const Call *api;
static void *environment, *memory;
#define SHIM(type, name) JNIEXPORT type JNICALL Java_ai_onnxruntime_Shim_##name

static int failed(JNIEnv *env, void *status) {
  if (!status) return 0;
  jclass kind = (*env)->FindClass(env, "ai/onnxruntime/OrtException");
  (*env)->ThrowNew(env, kind, (const char *)api[GET_ERROR_MESSAGE](status));
  api[RELEASE_STATUS](status);
  return 1;
}

SHIM(void, open)(JNIEnv *env, jclass self, jstring library) {
  const char *path = (*env)->GetStringUTFChars(env, library, 0);
  void *handle = dlopen(path, RTLD_NOW);
  Base *(*base)(void) = handle ? (Base * (*)(void)) dlsym(handle, "OrtGetApiBase") : 0;
  (*env)->ReleaseStringUTFChars(env, library, path);
  if (!base || !(api = base()->get_api(16))) {
    (*env)->ThrowNew(env, (*env)->FindClass(env, "java/lang/UnsatisfiedLinkError"), "no ONNX Runtime with API 16");
    return;
  }
  if (failed(env, api[CREATE_ENV](3, "edgekit", &environment))) return;
  failed(env, api[CREATE_CPU_MEMORY_INFO](0, 0, &memory));
}

SHIM(jlong, createSession)(JNIEnv *env, jclass self, jstring file, jint intra, jint inter) {
  void *options = 0, *session = 0;
  if (failed(env, api[CREATE_SESSION_OPTIONS](&options))) return 0;
  const char *path = (*env)->GetStringUTFChars(env, file, 0);
  if (!failed(env, api[SET_INTRA_THREADS](options, intra)) && !failed(env, api[SET_INTER_THREADS](options, inter)))
    failed(env, api[CREATE_SESSION](environment, path, options, &session));
  (*env)->ReleaseStringUTFChars(env, file, path);
  api[RELEASE_OPTIONS](options);
  return (jlong)session;
}

SHIM(jlong, createTensor)(JNIEnv *env, jclass self, jobject data, jlong bytes, jlongArray shape, jint type) {
  void *value = 0;
  jsize axes = (*env)->GetArrayLength(env, shape);
  jlong *sizes = (*env)->GetLongArrayElements(env, shape, 0);
  void *start = (*env)->GetDirectBufferAddress(env, data);
  failed(env, api[CREATE_TENSOR_WITH_DATA](memory, start, (size_t)bytes, sizes, (size_t)axes, (int)type, &value));
  (*env)->ReleaseLongArrayElements(env, shape, sizes, JNI_ABORT);
  return (jlong)value;
}

static const char **names(JNIEnv *env, jobjectArray given, jsize count) {
  const char **found = calloc(count + 1, sizeof *found);
  for (jsize i = 0; i < count; i++)
    found[i] = (*env)->GetStringUTFChars(env, (*env)->GetObjectArrayElement(env, given, i), 0);
  return found;
}

static void forget(JNIEnv *env, jobjectArray given, const char **found, jsize count) {
  for (jsize i = 0; i < count; i++)
    (*env)->ReleaseStringUTFChars(env, (*env)->GetObjectArrayElement(env, given, i), found[i]);
  free(found);
}

SHIM(void, run)(JNIEnv *env, jclass self, jlong session, jobjectArray in, jlongArray inputs, jobjectArray out,
                jlongArray outputs) {
  jsize given = (*env)->GetArrayLength(env, in), wanted = (*env)->GetArrayLength(env, out);
  (*env)->EnsureLocalCapacity(env, 2 * (given + wanted) + 16);
  const char **in_names = names(env, in, given), **out_names = names(env, out, wanted);
  jlong *in_values = (*env)->GetLongArrayElements(env, inputs, 0);
  jlong *out_values = (*env)->GetLongArrayElements(env, outputs, 0);
  failed(env, api[RUN]((void *)session, (void *)0, in_names, (void **)in_values, (size_t)given, out_names,
                       (size_t)wanted, (void **)out_values));
  (*env)->ReleaseLongArrayElements(env, inputs, in_values, JNI_ABORT);
  (*env)->ReleaseLongArrayElements(env, outputs, out_values, 0);
  forget(env, in, in_names, given);
  forget(env, out, out_names, wanted);
}

SHIM(jlongArray, shape)(JNIEnv *env, jclass self, jlong value) {
  void *info = 0;
  size_t axes = 0;
  int64_t sizes[16];
  api[GET_TYPE_AND_SHAPE]((void *)value, &info);
  api[GET_DIMENSIONS_COUNT](info, &axes);
  api[GET_DIMENSIONS](info, sizes, axes);
  api[RELEASE_INFO](info);
  jlongArray found = (*env)->NewLongArray(env, (jsize)axes);
  (*env)->SetLongArrayRegion(env, found, 0, (jsize)axes, (jlong *)sizes);
  return found;
}

/* Only float32 is ever read back. */
SHIM(jobject, data)(JNIEnv *env, jclass self, jlong value) {
  void *info = 0, *start = 0;
  size_t count = 0;
  api[GET_TYPE_AND_SHAPE]((void *)value, &info);
  api[GET_ELEMENT_COUNT](info, &count);
  api[RELEASE_INFO](info);
  api[GET_TENSOR_DATA]((void *)value, &start);
  return (*env)->NewDirectByteBuffer(env, start, (jlong)(4 * count));
}

SHIM(void, releaseValue)(JNIEnv *env, jclass self, jlong value) { api[RELEASE_VALUE]((void *)value); }

SHIM(void, releaseSession)(JNIEnv *env, jclass self, jlong session) { api[RELEASE_SESSION]((void *)session); }
