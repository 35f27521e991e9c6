package android.graphics;

/** https://developer.android.com/reference/android/graphics/BitmapFactory */
public class BitmapFactory {
  public static Bitmap decodeByteArray(byte[] data, int offset, int length, Options opts) { return null; }

  /** https://developer.android.com/reference/android/graphics/BitmapFactory.Options */
  public static class Options {
    public Bitmap.Config inPreferredConfig;
    public boolean inPremultiplied;
    public boolean inScaled;
    public ColorSpace inPreferredColorSpace;
  }
}
