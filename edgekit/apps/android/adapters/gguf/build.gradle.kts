plugins {
    alias(libs.plugins.android.library)
}

android {
    namespace = "edgekit.gguf"
    compileSdk = 36
    defaultConfig {
        minSdk = 29
        ndk {
            abiFilters += "arm64-v8a"
        }
        externalNativeBuild {
            cmake {
                arguments += "-DEDGEKIT_LLAMA=${providers.gradleProperty("edgekit.llama").getOrElse("")}"
            }
        }
    }
    externalNativeBuild {
        cmake {
            path = file("src/main/cpp/CMakeLists.txt")
        }
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

dependencies {
    api(project(":core"))
}
