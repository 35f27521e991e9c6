package android.os;

/** https://developer.android.com/reference/android/os/PowerManager */
public final class PowerManager {
  public int getCurrentThermalStatus() { return 0; }
  public boolean isPowerSaveMode() { return false; }
}
