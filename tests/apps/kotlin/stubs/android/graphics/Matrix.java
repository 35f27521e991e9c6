package android.graphics;

/** https://developer.android.com/reference/android/graphics/Matrix */
public class Matrix {
  public Matrix() {}
  public boolean postScale(float sx, float sy) { return true; }
  public boolean postRotate(float degrees) { return true; }
}
