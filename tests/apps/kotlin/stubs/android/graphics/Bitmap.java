package android.graphics;

/** https://developer.android.com/reference/android/graphics/Bitmap */
public final class Bitmap {
  /** https://developer.android.com/reference/android/graphics/Bitmap.Config */
  public enum Config { ARGB_8888 }
  public int getWidth() { return 0; }
  public int getHeight() { return 0; }
  public void getPixels(int[] pixels, int offset, int stride, int x, int y, int width, int height) {}
  public static Bitmap createBitmap(Bitmap source, int x, int y, int width, int height, Matrix m, boolean filter) { return source; }
}
