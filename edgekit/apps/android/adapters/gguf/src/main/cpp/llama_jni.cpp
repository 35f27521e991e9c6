// What edgekit.gguf.Llama declares, over llama.h and mtmd.h of llama.cpp.
#include <jni.h>
#include <llama.h>
#include <mtmd.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

const int BATCH = 512;
const char *const MARKER = "<__media__>";

struct Model {
  llama_model *model = nullptr;
  llama_context *context = nullptr;
  mtmd_context *vision = nullptr;

  ~Model() {
    if (vision) mtmd_free(vision);
    if (context) llama_free(context);
    if (model) llama_model_free(model);
  }
};

Model *of(jlong handle) { return reinterpret_cast<Model *>(handle); }

/// Runs it; what it throws becomes Java's IllegalStateException, and the result an empty one.
template <typename Work>
auto guarded(JNIEnv *env, Work work) -> decltype(work()) {
  try {
    return work();
  } catch (const std::exception &error) {
    env->ThrowNew(env->FindClass("java/lang/IllegalStateException"), error.what());
    return decltype(work())();
  }
}

std::string text(JNIEnv *env, jstring given) {
  const char *start = env->GetStringUTFChars(given, nullptr);
  std::string found(start);
  env->ReleaseStringUTFChars(given, start);
  return found;
}

jfloatArray floats(JNIEnv *env, const float *values, size_t count) {
  jfloatArray found = env->NewFloatArray(static_cast<jsize>(count));
  if (found) env->SetFloatArrayRegion(found, 0, static_cast<jsize>(count), values);
  return found;
}

void decode(Model &own, llama_batch batch) {
  const int code = llama_decode(own.context, batch);
  if (code == 1) throw std::runtime_error("the context is full");
  if (code) throw std::runtime_error("llama_decode gave code " + std::to_string(code));
}

/// Tokens (T,) or embeddings (T, width) at positions (axes, T); logits are kept of the last.
void feed(Model &own, std::vector<llama_token> ids, std::vector<float> rows, const std::vector<llama_pos> &positions) {
  const size_t width = llama_model_n_embd_inp(own.model);
  const size_t total = ids.empty() ? rows.size() / width : ids.size();
  if (!total || positions.size() % total) throw std::runtime_error("positions do not fit what is fed");
  const size_t axes = positions.size() / total;
  for (size_t start = 0; start < total; start += BATCH) {
    const size_t count = std::min<size_t>(BATCH, total - start);
    std::vector<llama_pos> places;
    for (size_t axis = 0; axis < axes; axis++) {
      const auto from = positions.begin() + axis * total + start;
      places.insert(places.end(), from, from + count);
    }
    std::vector<int8_t> wanted(count, 0);
    wanted.back() = start + count == total;
    llama_batch batch = {};
    batch.n_tokens = static_cast<int32_t>(count);
    batch.token = ids.empty() ? nullptr : ids.data() + start;
    batch.embd = ids.empty() ? rows.data() + start * width : nullptr;
    batch.pos = places.data();
    batch.logits = wanted.data();
    decode(own, batch);
  }
}

std::vector<float> encode(Model &own, const std::vector<unsigned char> &rgb, int width, int height) {
  std::unique_ptr<mtmd_bitmap, decltype(&mtmd_bitmap_free)> bitmap(mtmd_bitmap_init(width, height, rgb.data()), mtmd_bitmap_free);
  std::unique_ptr<mtmd_input_chunks, decltype(&mtmd_input_chunks_free)> chunks(mtmd_input_chunks_init(), mtmd_input_chunks_free);
  mtmd_input_text words = {};
  words.text = MARKER;
  words.text_len = std::string(MARKER).size();
  words.add_special = false;
  words.parse_special = true;
  const mtmd_bitmap *bitmaps[] = {bitmap.get()};
  if (mtmd_tokenize(own.vision, chunks.get(), &words, bitmaps, 1)) throw std::runtime_error("mtmd does not take the picture");
  const mtmd_input_chunk *last = nullptr; // of several, the last is the whole picture
  for (size_t at = 0; at < mtmd_input_chunks_size(chunks.get()); at++) {
    const mtmd_input_chunk *chunk = mtmd_input_chunks_get(chunks.get(), at);
    if (mtmd_input_chunk_get_type(chunk) == MTMD_INPUT_CHUNK_TYPE_IMAGE) last = chunk;
  }
  if (!last || mtmd_encode_chunk(own.vision, last)) throw std::runtime_error("mtmd does not encode the picture");
  const float *found = mtmd_get_output_embd(own.vision);
  return std::vector<float>(found, found + mtmd_input_chunk_get_n_tokens(last) * llama_model_n_embd_inp(own.model));
}

}  // namespace

#define LLAMA(type, name) extern "C" JNIEXPORT type JNICALL Java_edgekit_gguf_Llama_##name

LLAMA(jlong, open)(JNIEnv *env, jclass, jstring file, jstring projector, jint threads, jint context, jboolean exact,
                   jint fewest, jint most) {
  return guarded(env, [&]() -> jlong {
    llama_backend_init();
    auto own = std::make_unique<Model>();
    llama_model_params model = llama_model_default_params();
    model.n_gpu_layers = 0;
    own->model = llama_model_load_from_file(text(env, file).c_str(), model);
    if (!own->model) throw std::runtime_error("the text model does not load");
    llama_context_params params = llama_context_default_params();
    params.n_ctx = context;
    params.n_batch = params.n_ubatch = BATCH;
    params.n_threads = params.n_threads_batch = threads;
    mtmd_context_params vision = mtmd_context_params_default();
    vision.use_gpu = vision.print_timings = vision.warmup = false;
    vision.n_threads = threads;
    vision.media_marker = MARKER;
    if (most > 0) {
      vision.image_min_tokens = fewest;
      vision.image_max_tokens = most;
    }
    if (exact) {
      params.type_k = params.type_v = GGML_TYPE_F32;
      params.flash_attn_type = vision.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    }
    own->context = llama_init_from_model(own->model, params);
    if (!own->context) throw std::runtime_error("there is no memory for a context of " + std::to_string(context) + " tokens");
    own->vision = mtmd_init_from_file(text(env, projector).c_str(), own->model, vision);
    if (!own->vision) throw std::runtime_error("the vision model does not load");
    return reinterpret_cast<jlong>(own.release());
  });
}

LLAMA(jint, width)(JNIEnv *, jclass, jlong handle) { return llama_model_n_embd_inp(of(handle)->model); }

LLAMA(jfloatArray, encode)(JNIEnv *env, jclass, jlong handle, jbyteArray rgb, jint width, jint height) {
  return guarded(env, [&]() -> jfloatArray {
    std::vector<unsigned char> bytes(env->GetArrayLength(rgb));
    env->GetByteArrayRegion(rgb, 0, static_cast<jsize>(bytes.size()), reinterpret_cast<jbyte *>(bytes.data()));
    const std::vector<float> found = encode(*of(handle), bytes, width, height);
    return floats(env, found.data(), found.size());
  });
}

LLAMA(void, feed)(JNIEnv *env, jclass, jlong handle, jintArray ids, jfloatArray rows, jintArray positions) {
  guarded(env, [&]() -> int {
    std::vector<llama_token> tokens(ids ? env->GetArrayLength(ids) : 0);
    std::vector<float> embeddings(rows ? env->GetArrayLength(rows) : 0);
    std::vector<llama_pos> places(env->GetArrayLength(positions));
    if (ids) env->GetIntArrayRegion(ids, 0, static_cast<jsize>(tokens.size()), tokens.data());
    if (rows) env->GetFloatArrayRegion(rows, 0, static_cast<jsize>(embeddings.size()), embeddings.data());
    env->GetIntArrayRegion(positions, 0, static_cast<jsize>(places.size()), places.data());
    feed(*of(handle), std::move(tokens), std::move(embeddings), places);
    return 0;
  });
}

LLAMA(jfloatArray, logits)(JNIEnv *env, jclass, jlong handle) {
  return guarded(env, [&]() -> jfloatArray {
    const float *found = llama_get_logits_ith(of(handle)->context, -1);
    if (!found) throw std::runtime_error("there are no logits");
    return floats(env, found, llama_vocab_n_tokens(llama_model_get_vocab(of(handle)->model)));
  });
}

LLAMA(jboolean, cut)(JNIEnv *, jclass, jlong handle, jint position) {
  llama_memory_t memory = llama_get_memory(of(handle)->context);
  if (position == 0) {
    llama_memory_clear(memory, true);
    return true;
  }
  return llama_memory_seq_rm(memory, 0, position, -1);
}

LLAMA(void, free)(JNIEnv *, jclass, jlong handle) { delete of(handle); }
