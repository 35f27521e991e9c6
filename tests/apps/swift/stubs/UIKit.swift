// NOT Apple's SDK: only the declarations of UIKit that the sample app uses. Nothing runs. An address above a
// declaration is the page that shows it; what has none goes by its name alone: its page was not looked up.
import Foundation

open class UIImage {
    public init?(data: Data) { fatalError() }
    public func jpegData(compressionQuality: CGFloat) -> Data? { fatalError() }
}

@MainActor open class UIDevice {
    public class var current: UIDevice { fatalError() }
    public var systemName: String { fatalError() }
    public var systemVersion: String { fatalError() }
    public var isBatteryMonitoringEnabled: Bool { get { fatalError() } set {} }
    public var batteryLevel: Float { fatalError() }
}

@MainActor open class UIViewController {
    public init() {}
    public func dismiss(animated flag: Bool, completion: (() -> Void)? = nil) {}
}

@MainActor open class UIImagePickerController: UIViewController {
    public override init() { super.init() }
    public enum SourceType: Int { case photoLibrary, camera, savedPhotosAlbum }
    public struct InfoKey: Hashable, Sendable {
        public static let originalImage = InfoKey()
    }
    public var sourceType: SourceType { get { fatalError() } set {} }
    /// https://developer.apple.com/documentation/uikit/uiimagepickercontroller/issourcetypeavailable(_:)
    public class func isSourceTypeAvailable(_ sourceType: SourceType) -> Bool { fatalError() }
    public weak var delegate: (any UIImagePickerControllerDelegate & UINavigationControllerDelegate)?
}

@MainActor public protocol UIImagePickerControllerDelegate: AnyObject {
    func imagePickerController(_ picker: UIImagePickerController, didFinishPickingMediaWithInfo info: [UIImagePickerController.InfoKey: Any])
}

@MainActor public protocol UINavigationControllerDelegate: AnyObject {}
