// Written by `edgekit app --platform ios`; the rest of this folder is the same in every app.
import EdgekitCore
import @ADAPTER@
import Foundation

@available(iOS @IOS@, *)
enum Constants {
    static let name = @QUOTED_NAME@
    /// SHA-256 of the bundle, as `edgekit bench` names it.
    static let bundleHash = "@HASH@"
    /// Whether the app holds app/model.json alone, and downloads the files that it lists.
    static let downloads = @DOWNLOADS@
    /// Folder of the bundle in the app's own resources.
    static let resource = "Model"
    static let runtime = Runtime.@RUNTIME@
}
