// NOT Apple's SDK: only the declarations of Core Graphics that PictureImage.swift uses. Nothing runs. An address above a
// declaration is the page that shows it; what has none goes by its name alone: its page was not looked up.
import Foundation

public final class CGImage {
    public var width: Int { fatalError() }
    public var height: Int { fatalError() }
    public var bitsPerComponent: Int { fatalError() }
    public var bitsPerPixel: Int { fatalError() }
    public var bytesPerRow: Int { fatalError() }
    public var colorSpace: CGColorSpace? { fatalError() }
    public var alphaInfo: CGImageAlphaInfo { fatalError() }
    public var bitmapInfo: CGBitmapInfo { fatalError() }
    public var dataProvider: CGDataProvider? { fatalError() }
}

public final class CGDataProvider {
    public var data: CFData? { fatalError() }
}

public final class CGColorSpace {
    public var model: CGColorSpaceModel { fatalError() }
}

public enum CGColorSpaceModel: Int32 { case unknown = -1, monochrome, rgb }
public func CGColorSpaceCreateDeviceRGB() -> CGColorSpace { fatalError() }

public enum CGImageAlphaInfo: UInt32 { case none, premultipliedLast, premultipliedFirst, last, first, noneSkipLast, noneSkipFirst, alphaOnly }
public struct CGBitmapInfo: OptionSet {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public static let byteOrderMask = CGBitmapInfo(rawValue: 0x7000)
    public static let byteOrder32Big = CGBitmapInfo(rawValue: 4 << 12)
}

public final class CGContext {
    public init?(
        data: UnsafeMutableRawPointer?, width: Int, height: Int, bitsPerComponent: Int, bytesPerRow: Int, space: CGColorSpace,
        bitmapInfo: UInt32
    ) { fatalError() }
    public func setBlendMode(_ mode: CGBlendMode) {}
    public var interpolationQuality: CGInterpolationQuality { get { fatalError() } set {} }
    public func draw(_ image: CGImage, in rect: CGRect) {}
}

public enum CGBlendMode: Int32 { case normal, copy }
public enum CGInterpolationQuality: Int32 { case `default`, none, low, medium, high }

/// CFString and CFData of Core Foundation: bridged to NSString and NSData there.
public typealias CFString = NSString
public typealias CFData = NSData
