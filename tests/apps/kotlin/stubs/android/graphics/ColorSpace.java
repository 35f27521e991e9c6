package android.graphics;

/** https://developer.android.com/reference/android/graphics/ColorSpace */
public abstract class ColorSpace {
  /** https://developer.android.com/reference/android/graphics/ColorSpace.Named */
  public enum Named { SRGB }
  public static ColorSpace get(Named name) { return null; }
}
