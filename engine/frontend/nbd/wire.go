package nbd

// The constants of the protocol document, section "Values" unless another one
// is named. All integers on the wire are big-endian.

// Magic numbers (sections "Newstyle negotiation", "Fixed newstyle
// negotiation" and "Transmission").
const (
	magicInit            = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption          = 0x49484156454f5054 // "IHAVEOPT"
	magicOptionReply     = 0x0003e889045565a9
	magicRequest         = 0x25609513
	magicSimpleReply     = 0x67446698
	magicStructuredReply = 0x668e33ef
)

// Handshake flags, of the server (16 bits) and of the client (32 bits).
const (
	handshakeFixedNewstyle = 1 << 0
	handshakeNoZeroes      = 1 << 1
)

// Transmission flags.
const (
	flagHasFlags        = 1 << 0
	flagReadOnly        = 1 << 1
	flagSendFlush       = 1 << 2
	flagSendFUA         = 1 << 3
	flagSendTrim        = 1 << 5
	flagSendWriteZeroes = 1 << 6
	flagSendDF          = 1 << 7
	flagCanMultiConn    = 1 << 8
	flagSendCache       = 1 << 10
	flagSendFastZero    = 1 << 11
)

// option is the type of an option in the handshake.
type option uint32

const (
	optExportName      option = 1
	optAbort           option = 2
	optList            option = 3
	optInfo            option = 6
	optGo              option = 7
	optStructuredReply option = 8
	optListMetaContext option = 9
	optSetMetaContext  option = 10
)

// optionReply is the type of a reply to an option.
type optionReply uint32

const (
	repAck         optionReply = 1
	repServer      optionReply = 2
	repInfo        optionReply = 3
	repMetaContext optionReply = 4

	repErrUnsupported optionReply = 1<<31 + 1
	repErrInvalid     optionReply = 1<<31 + 3
	repErrUnknown     optionReply = 1<<31 + 6
	repErrShutdown    optionReply = 1<<31 + 7
	repErrTooBig      optionReply = 1<<31 + 9
)

// Information types in replies to INFO and GO.
const (
	infoExport      uint16 = 0
	infoName        uint16 = 1
	infoDescription uint16 = 2
	infoBlockSize   uint16 = 3
)

// command is the type of a request.
type command uint16

const (
	cmdRead        command = 0
	cmdWrite       command = 1
	cmdDisconnect  command = 2
	cmdFlush       command = 3
	cmdTrim        command = 4
	cmdCache       command = 5
	cmdWriteZeroes command = 6
	cmdBlockStatus command = 7
)

// Command flags.
const (
	cmdFlagFUA      = 1 << 0
	cmdFlagNoHole   = 1 << 1
	cmdFlagDF       = 1 << 2
	cmdFlagReqOne   = 1 << 3
	cmdFlagFastZero = 1 << 4
)

// Structured reply flags and chunk types.
const (
	replyFlagDone = 1 << 0

	chunkNone        uint16 = 0
	chunkOffsetData  uint16 = 1
	chunkOffsetHole  uint16 = 2
	chunkBlockStatus uint16 = 5
	chunkError       uint16 = 1<<15 + 1
)

// status is the error field of a reply; 0 is success.
type status uint32

const (
	statusOK           status = 0
	statusNotPermitted status = 1   // NBD_EPERM
	statusIO           status = 5   // NBD_EIO
	statusInvalid      status = 22  // NBD_EINVAL
	statusNoSpace      status = 28  // NBD_ENOSPC
	statusNotSupported status = 95  // NBD_ENOTSUP
	statusShutdown     status = 108 // NBD_ESHUTDOWN
)

// The one metadata context, and its flags.
const (
	contextAllocation   = "base:allocation"
	contextAllocationID = 1

	stateHole = 1 << 0
	stateZero = 1 << 1
)

// Sizes of fixed parts of messages, in bytes.
const (
	optionHeaderBytes     = 16
	requestBytes          = 28
	simpleReplyBytes      = 16
	structuredHeaderBytes = 20
	exportNameZeroes      = 124
)

// Limits of this server.
const (
	// minBlockBytes, preferredBlockBytes and maxRequestBytes are announced
	// as block sizes. maxRequestBytes bounds requests whose payload crosses
	// the wire; the document asks that 2^25 be accepted.
	minBlockBytes       = 512
	preferredBlockBytes = 4096
	maxRequestBytes     = 32 << 20

	// maxNameBytes bounds export names and descriptions; the document says
	// that names SHOULD be no longer.
	maxNameBytes = 256

	// maxOptionBytes bounds the data of one option; a longer one is skipped
	// and refused with TOO_BIG. It leaves room for a name of 4096 bytes,
	// the longest there is, and some queries.
	maxOptionBytes = 16 << 10

	// maxOptions is how many options one handshake may have.
	maxOptions = 128

	// maxExtents bounds the descriptors in one reply to BLOCK_STATUS.
	maxExtents = 2048

	// maxMessageBytes bounds the text in an error reply.
	maxMessageBytes = 256

	// connectionBytes is the payload memory of one connection: enough for
	// one request of the greatest size, or for many small ones. A request
	// that finds it used up waits, and with it those behind it.
	connectionBytes = maxRequestBytes
)
