package edgekit.app

import android.os.Bundle
import androidx.activity.ComponentActivity
import androidx.activity.compose.setContent
import androidx.activity.viewModels
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.safeDrawingPadding
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Surface
import androidx.compose.material3.Tab
import androidx.compose.material3.TabRow
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableIntStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.unit.dp

class MainActivity : ComponentActivity() {
    private val model: AppModel by viewModels()

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContent { MaterialTheme { Surface(Modifier.fillMaxSize()) { Screens(model) } } }
    }
}

@Composable
private fun Screens(model: AppModel) {
    var tab by remember { mutableIntStateOf(0) }
    Column(Modifier.safeDrawingPadding()) {
        TabRow(selectedTabIndex = tab) {
            for ((number, title) in listOf(R.string.ask, R.string.bench, R.string.self_test).withIndex()) {
                Tab(selected = tab == number, onClick = { tab = number }, text = { Text(stringResource(title)) })
            }
        }
        Column(Modifier.padding(16.dp).verticalScroll(rememberScrollState())) {
            when (tab) {
                0 -> AskScreen(model)
                1 -> BenchScreen(model)
                else -> SelfTestScreen(model)
            }
            Text(model.status)
        }
    }
}
