package ai.onnxruntime;

/** https://onnxruntime.ai/docs/api/java/ai/onnxruntime/TensorInfo.html */
public class TensorInfo {
  private final long[] shape;

  TensorInfo(long[] shape) {
    this.shape = shape;
  }

  public long[] getShape() {
    return shape.clone();
  }
}
