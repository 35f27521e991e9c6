package org.pytorch.executorch;

/** https://docs.pytorch.org/executorch/main/javadoc/org/pytorch/executorch/EValue.html */
public class EValue {
  public static EValue from(Tensor tensor) { return null; }
  public Tensor toTensor() { return null; }
  public long toInt() { return 0; }
}
