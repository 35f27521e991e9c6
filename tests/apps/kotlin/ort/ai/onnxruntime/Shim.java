package ai.onnxruntime;

import java.nio.Buffer;
import java.nio.ByteBuffer;

/** The few calls of ONNX Runtime's C API that the classes here need; shim.c has them. */
final class Shim {
  static {
    System.load(System.getProperty("edgekit.shim"));
    open(System.getProperty("edgekit.onnxruntime"));
  }

  private Shim() {}

  private static native void open(String library);

  static native long createSession(String path, int intra, int inter) throws OrtException;

  static native long createTensor(Buffer data, long bytes, long[] shape, int type) throws OrtException;

  static native void run(long session, String[] inputNames, long[] inputs, String[] outputNames, long[] outputs)
      throws OrtException;

  static native long[] shape(long value);

  static native ByteBuffer data(long value);

  static native void releaseValue(long value);

  static native void releaseSession(long session);
}
