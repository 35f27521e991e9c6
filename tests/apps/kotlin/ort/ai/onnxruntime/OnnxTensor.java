package ai.onnxruntime;

import java.nio.Buffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;

/** https://onnxruntime.ai/docs/api/java/ai/onnxruntime/OnnxTensor.html */
public class OnnxTensor extends OnnxTensorLike {
  private static final int FLOAT = 1;
  private static final int INT64 = 7;

  /** Held so that the memory lives as long as the tensor. */
  private final Buffer buffer;

  private boolean closed;

  OnnxTensor(long nativeHandle, Buffer buffer) {
    super(nativeHandle);
    this.buffer = buffer;
  }

  public static OnnxTensor createTensor(OrtEnvironment env, FloatBuffer data, long[] shape) throws OrtException {
    return create(data, 4L * data.remaining(), shape, FLOAT);
  }

  public static OnnxTensor createTensor(OrtEnvironment env, LongBuffer data, long[] shape) throws OrtException {
    return create(data, 8L * data.remaining(), shape, INT64);
  }

  /** As the real one: the tensor begins where the buffer's memory does, its position aside. */
  private static OnnxTensor create(Buffer data, long bytes, long[] shape, int type) throws OrtException {
    if (!data.isDirect()) {
      throw new OrtException("this shim takes direct buffers only");
    }
    return new OnnxTensor(Shim.createTensor(data, bytes, shape, type), data);
  }

  public TensorInfo getInfo() {
    return new TensorInfo(Shim.shape(nativeHandle));
  }

  /** A copy. */
  public FloatBuffer getFloatBuffer() {
    FloatBuffer own = Shim.data(nativeHandle).order(ByteOrder.nativeOrder()).asFloatBuffer();
    FloatBuffer copy = FloatBuffer.allocate(own.capacity());
    copy.put(own);
    copy.rewind();
    return copy;
  }

  @Override
  public void close() {
    if (!closed) {
      Shim.releaseValue(nativeHandle);
    }
    closed = true;
  }
}
