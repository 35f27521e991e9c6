// NOT Apple's SDK: only the declarations that the sample app uses, each as the page above it shows it. Nothing runs.
import Foundation

/// https://developer.apple.com/documentation/uikit/uiimage
open class UIImage {
    public init?(data: Data) { fatalError() }
    /// https://developer.apple.com/documentation/uikit/uiimage/jpegdata(compressionquality:)
    public func jpegData(compressionQuality: CGFloat) -> Data? { fatalError() }
}

/// https://developer.apple.com/documentation/uikit/uidevice
@MainActor open class UIDevice {
    public class var current: UIDevice { fatalError() }
    public var systemName: String { fatalError() }
    public var systemVersion: String { fatalError() }
    public var isBatteryMonitoringEnabled: Bool { get { fatalError() } set {} }
    public var batteryLevel: Float { fatalError() }
}

/// https://developer.apple.com/documentation/uikit/uiviewcontroller
@MainActor open class UIViewController {
    public init() {}
    /// https://developer.apple.com/documentation/uikit/uiviewcontroller/dismiss(animated:completion:)
    public func dismiss(animated flag: Bool, completion: (() -> Void)? = nil) {}
}

/// https://developer.apple.com/documentation/uikit/uiimagepickercontroller
@MainActor open class UIImagePickerController: UIViewController {
    public override init() { super.init() }
    public enum SourceType: Int { case photoLibrary, camera, savedPhotosAlbum }
    public struct InfoKey: Hashable, Sendable {
        public static let originalImage = InfoKey()
    }
    public var sourceType: SourceType { get { fatalError() } set {} }
    public class func isSourceTypeAvailable(_ sourceType: SourceType) -> Bool { fatalError() }
    public weak var delegate: (any UIImagePickerControllerDelegate & UINavigationControllerDelegate)?
}

/// https://developer.apple.com/documentation/uikit/uiimagepickercontrollerdelegate
@MainActor public protocol UIImagePickerControllerDelegate: AnyObject {
    func imagePickerController(_ picker: UIImagePickerController, didFinishPickingMediaWithInfo info: [UIImagePickerController.InfoKey: Any])
}

/// https://developer.apple.com/documentation/uikit/uinavigationcontrollerdelegate
@MainActor public protocol UINavigationControllerDelegate: AnyObject {}
