package ai.onnxruntime;

/** https://onnxruntime.ai/docs/api/java/ai/onnxruntime/OnnxTensorLike.html */
public abstract class OnnxTensorLike implements OnnxValue {
  final long nativeHandle;

  OnnxTensorLike(long nativeHandle) {
    this.nativeHandle = nativeHandle;
  }
}
