package android.os;

/** https://developer.android.com/reference/android/os/BatteryManager */
public class BatteryManager {
  public static final int BATTERY_PROPERTY_CAPACITY = 4;
  public int getIntProperty(int id) { return 0; }
}
