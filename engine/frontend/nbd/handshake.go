package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// handshake greets the client and answers its options until it enters the
// transmission phase, in which case c.export is set and attached, or leaves.
func (c *connection) handshake() error {
	if !c.limitHandshake() {
		return nil
	}
	noZeroes, err := c.greet()
	if err != nil {
		return fmt.Errorf("greet nbd client: %w", err)
	}
	h := haggling{connection: c, noZeroes: noZeroes}
	for range maxOptions {
		done, err := h.option()
		if err != nil {
			return fmt.Errorf("negotiate with nbd client: %w", err)
		}
		if done {
			return nil
		}
	}
	return fmt.Errorf("negotiate with nbd client: %w: more than %d options", ErrProtocol, maxOptions)
}

// limitHandshake sets the deadline by which the handshake has to be over,
// unless the connection is being drained already.
func (c *connection) limitHandshake() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return false
	}
	return c.conn.SetDeadline(time.Now().Add(c.server.config.HandshakeTimeout)) == nil
}

// greet exchanges magic numbers and flags (section "Newstyle negotiation").
func (c *connection) greet() (noZeroes bool, err error) {
	hello := binary.BigEndian.AppendUint64(nil, magicInit)
	hello = binary.BigEndian.AppendUint64(hello, magicOption)
	hello = binary.BigEndian.AppendUint16(hello, handshakeFixedNewstyle|handshakeNoZeroes)
	if _, err := c.conn.Write(hello); err != nil {
		return false, err
	}
	var answer [4]byte
	if err := c.readFull(answer[:], "client flags"); err != nil {
		return false, err
	}
	flags := binary.BigEndian.Uint32(answer[:])
	if flags&^(handshakeFixedNewstyle|handshakeNoZeroes) != 0 || flags&handshakeFixedNewstyle == 0 {
		return false, fmt.Errorf("%w: client flags %#x are not fixed newstyle", ErrProtocol, flags)
	}
	return flags&handshakeNoZeroes != 0, nil
}

// haggling is the state of a handshake between options.
type haggling struct {
	*connection
	noZeroes bool // the client asked for no padding after EXPORT_NAME

	// contextExport is the export for which the allocation context was
	// selected last, or nil.
	contextExport *export
}

// option reads and answers one option. done means that the handshake is over.
func (h *haggling) option() (done bool, err error) {
	var raw [optionHeaderBytes]byte
	if _, err := io.ReadFull(h.in, raw[:]); errors.Is(err, io.EOF) {
		return true, nil // leaving between options is in order
	} else if err != nil {
		return true, fmt.Errorf("read option: %w", err)
	}
	header, err := parseOptionHeader(raw[:])
	if err != nil {
		return true, err
	}
	if header.dataBytes > maxOptionBytes {
		if header.option == optExportName {
			return true, fmt.Errorf("%w: export name of %d bytes", ErrProtocol, header.dataBytes)
		}
		if err := h.skip(header.dataBytes, "option data"); err != nil {
			return true, err
		}
		return false, h.reply(header.option, repErrTooBig, []byte("option data too long"))
	}
	data := make([]byte, header.dataBytes)
	if err := h.readFull(data, "option data"); err != nil {
		return true, err
	}
	return h.answer(header.option, data)
}

// answer handles one option whose data has arrived.
func (h *haggling) answer(opt option, data []byte) (done bool, err error) {
	switch opt {
	case optExportName:
		return true, h.exportNameOption(string(data))
	case optAbort:
		// The client may be gone already, which is in order.
		_ = h.reply(opt, repAck, nil)
		return true, nil
	case optList:
		return false, h.list(data)
	case optInfo, optGo:
		return h.info(opt, data)
	case optStructuredReply:
		if len(data) != 0 {
			return false, h.reply(opt, repErrInvalid, []byte("option takes no data"))
		}
		h.negotiated.structured = true
		return false, h.reply(opt, repAck, nil)
	case optListMetaContext, optSetMetaContext:
		return false, h.metaContext(opt, data)
	default:
		return false, h.reply(opt, repErrUnsupported, nil)
	}
}

// reply sends one reply to an option.
func (h *haggling) reply(opt option, reply optionReply, data []byte) error {
	return h.send(appendOptionReply(nil, opt, reply, data))
}

func (h *haggling) send(b []byte) error {
	if _, err := h.conn.Write(b); err != nil {
		return fmt.Errorf("write option reply: %w", err)
	}
	return nil
}

// choose attaches the connection to the export and settles what was
// negotiated for it; false when the export is being removed.
func (h *haggling) choose(e *export) bool {
	h.negotiated.allocation = h.contextExport == e
	if !h.server.exports.attach(e, h.connection) {
		return false
	}
	h.connection.export.Store(e)
	return true
}

// exportNameOption enters the transmission phase in the old way, which knows
// no error but to disconnect.
func (h *haggling) exportNameOption(name string) error {
	e := h.server.exports.find(name)
	if e == nil || !h.choose(e) {
		return fmt.Errorf("export %q: %w", name, ErrNoExport)
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(e.device.SizeBytes()))
	b = binary.BigEndian.AppendUint16(b, e.flags(h.negotiated))
	if !h.noZeroes {
		b = append(b, make([]byte, exportNameZeroes)...)
	}
	return h.send(b)
}

func (h *haggling) list(data []byte) error {
	if len(data) != 0 {
		return h.reply(optList, repErrInvalid, []byte("option takes no data"))
	}
	var b []byte
	for _, e := range h.server.exports.list() {
		b = appendOptionReply(b, optList, repServer, serverData(e.name, e.description))
	}
	return h.send(appendOptionReply(b, optList, repAck, nil))
}

// info answers INFO and GO; after a successful GO the handshake is over.
func (h *haggling) info(opt option, data []byte) (done bool, err error) {
	request, err := parseInfoRequest(data)
	if err != nil {
		return false, h.reply(opt, repErrInvalid, []byte(err.Error()))
	}
	e := h.server.exports.find(request.name)
	if e == nil {
		return false, h.reply(opt, repErrUnknown, []byte("no such export"))
	}
	if opt == optGo && !h.choose(e) {
		return false, h.reply(opt, repErrShutdown, []byte("export is being removed"))
	}
	b := appendOptionReply(nil, opt, repInfo, exportData(e.device.SizeBytes(), e.flags(h.negotiated)))
	// Block sizes are not the defaults, so they are sent unasked too.
	b = appendOptionReply(b, opt, repInfo, blockSizeData())
	for _, want := range request.wants {
		switch want {
		case infoName:
			b = appendOptionReply(b, opt, repInfo, textData(infoName, e.name))
		case infoDescription:
			b = appendOptionReply(b, opt, repInfo, textData(infoDescription, e.description))
		}
	}
	return opt == optGo, h.send(appendOptionReply(b, opt, repAck, nil))
}

// metaContext answers LIST_META_CONTEXT and SET_META_CONTEXT. Setting
// replaces the earlier selection even when it fails.
func (h *haggling) metaContext(opt option, data []byte) error {
	set := opt == optSetMetaContext
	if set {
		h.contextExport = nil
	}
	if !h.negotiated.structured {
		return h.reply(opt, repErrInvalid, []byte("structured replies must be negotiated first"))
	}
	request, err := parseMetaRequest(data)
	if err != nil {
		return h.reply(opt, repErrInvalid, []byte(err.Error()))
	}
	e := h.server.exports.find(request.name)
	if e == nil {
		return h.reply(opt, repErrUnknown, []byte("no such export"))
	}
	selected := !set && len(request.queries) == 0
	for _, query := range request.queries {
		selected = selected || selects(query, !set)
	}
	var b []byte
	if selected {
		id := uint32(0) // reserved in lists
		if set {
			id, h.contextExport = contextAllocationID, e
		}
		b = appendOptionReply(b, opt, repMetaContext, metaContextData(id, contextAllocation))
	}
	return h.send(appendOptionReply(b, opt, repAck, nil))
}
