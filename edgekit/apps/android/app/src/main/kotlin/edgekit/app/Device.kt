package edgekit.app

import android.content.Context
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import edgekit.check.DeviceState
import java.io.File

/** Android's words for its thermal states, by number. */
private val THERMAL = listOf("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")

/** What of this device goes beside a measurement. */
fun deviceState(context: Context): DeviceState {
    val power = context.getSystemService(PowerManager::class.java)
    val battery = context.getSystemService(BatteryManager::class.java)
    return DeviceState(
        device = "${Build.MANUFACTURER} ${Build.MODEL}",
        os = "Android ${Build.VERSION.RELEASE} (${Build.ID})",
        app = context.packageName,
        thermal = THERMAL.getOrElse(power.currentThermalStatus) { "unknown" },
        battery = battery.getIntProperty(BatteryManager.BATTERY_PROPERTY_CAPACITY).takeIf { it in 0..100 }?.toDouble(),
        lowPower = power.isPowerSaveMode,
        memory = memory("VmHWM"),
        memoryBy = "VmHWM of /proc/self/status",
    )
}

/** Memory of this process as Linux counts it, bytes: VmRSS now, VmHWM at its highest; null where it is not told. */
fun memory(name: String): Long? = File("/proc/self/status").readLines().find { it.startsWith("$name:") }
    ?.filter { it.isDigit() }?.toLongOrNull()?.times(1024)

/** Fast cores are about half of a phone's; more threads wait for the slow ones. */
fun goodThreads(): Int = (Runtime.getRuntime().availableProcessors() / 2).coerceIn(1, 4)
