package android.os;

/** https://developer.android.com/reference/android/os/Build */
public class Build {
  public static final String MANUFACTURER = null;
  public static final String MODEL = null;
  public static final String ID = null;

  /** https://developer.android.com/reference/android/os/Build.VERSION */
  public static class VERSION {
    public static final String RELEASE = null;
  }
}
