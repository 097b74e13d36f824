package nbd

import (
	"encoding/binary"
	"fmt"
)

// optionHeader precedes the data of every option a client sends.
type optionHeader struct {
	option    option
	dataBytes uint32
}

// parseOptionHeader decodes the optionHeaderBytes of b.
func parseOptionHeader(b []byte) (optionHeader, error) {
	if magic := binary.BigEndian.Uint64(b); magic != magicOption {
		return optionHeader{}, fmt.Errorf("%w: option magic %#x, want %#x", ErrProtocol, magic, uint64(magicOption))
	}
	return optionHeader{
		option:    option(binary.BigEndian.Uint32(b[8:])),
		dataBytes: binary.BigEndian.Uint32(b[12:]),
	}, nil
}

// infoRequest is the data of INFO and GO.
type infoRequest struct {
	name  string
	wants []uint16 // information types; unknown ones are ignored
}

// parseInfoRequest decodes the data of INFO and GO. The error is for the
// client: the stream itself is intact.
func parseInfoRequest(data []byte) (infoRequest, error) {
	name, rest, err := cutString(data)
	if err != nil {
		return infoRequest{}, fmt.Errorf("export name: %w", err)
	}
	if len(rest) < 2 {
		return infoRequest{}, fmt.Errorf("%w: number of information requests is missing", ErrProtocol)
	}
	count := int(binary.BigEndian.Uint16(rest))
	rest = rest[2:]
	if len(rest) != 2*count {
		return infoRequest{}, fmt.Errorf("%w: %d information requests in %d bytes", ErrProtocol, count, len(rest))
	}
	request := infoRequest{name: name, wants: make([]uint16, count)}
	for i := range request.wants {
		request.wants[i] = binary.BigEndian.Uint16(rest[2*i:])
	}
	return request, nil
}

// metaRequest is the data of LIST_META_CONTEXT and SET_META_CONTEXT.
type metaRequest struct {
	name    string
	queries []string
}

// parseMetaRequest decodes the data of the two options about contexts. The
// error is for the client: the stream itself is intact.
func parseMetaRequest(data []byte) (metaRequest, error) {
	name, rest, err := cutString(data)
	if err != nil {
		return metaRequest{}, fmt.Errorf("export name: %w", err)
	}
	if len(rest) < 4 {
		return metaRequest{}, fmt.Errorf("%w: number of queries is missing", ErrProtocol)
	}
	count := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	// Each query takes 4 bytes at least, so the count is bounded by what
	// arrived before it sizes anything.
	if uint64(count)*4 > uint64(len(rest)) {
		return metaRequest{}, fmt.Errorf("%w: %d queries in %d bytes", ErrProtocol, count, len(rest))
	}
	request := metaRequest{name: name, queries: make([]string, 0, count)}
	for range count {
		var query string
		if query, rest, err = cutString(rest); err != nil {
			return metaRequest{}, fmt.Errorf("query: %w", err)
		}
		request.queries = append(request.queries, query)
	}
	if len(rest) != 0 {
		return metaRequest{}, fmt.Errorf("%w: %d bytes after the last query", ErrProtocol, len(rest))
	}
	return request, nil
}

// cutString takes a string with a 32-bit length from the front of b.
func cutString(b []byte) (s string, rest []byte, err error) {
	if len(b) < 4 {
		return "", nil, fmt.Errorf("%w: length is missing", ErrProtocol)
	}
	length := binary.BigEndian.Uint32(b)
	if b = b[4:]; uint64(length) > uint64(len(b)) {
		return "", nil, fmt.Errorf("%w: %d bytes announced, %d left", ErrProtocol, length, len(b))
	}
	return string(b[:length]), b[length:], nil
}

// selects reports whether a query names the allocation context. wildcard is
// set for LIST, where the bare namespace asks for all of it.
func selects(query string, wildcard bool) bool {
	return query == contextAllocation || (wildcard && query == "base:")
}

// appendOptionReply appends a reply to an option: header and data.
func appendOptionReply(b []byte, opt option, reply optionReply, data []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, magicOptionReply)
	b = binary.BigEndian.AppendUint32(b, uint32(opt))
	b = binary.BigEndian.AppendUint32(b, uint32(reply))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// serverData is the data of repServer.
func serverData(name, description string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	b = append(b, name...)
	return append(b, description...)
}

// exportData is the data of repInfo for infoExport.
func exportData(sizeBytes int64, flags uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, uint64(sizeBytes))
	return binary.BigEndian.AppendUint16(b, flags)
}

// textData is the data of repInfo for infoName and infoDescription.
func textData(info uint16, text string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, info), text...)
}

// blockSizeData is the data of repInfo for infoBlockSize.
func blockSizeData() []byte {
	b := binary.BigEndian.AppendUint16(nil, infoBlockSize)
	b = binary.BigEndian.AppendUint32(b, minBlockBytes)
	b = binary.BigEndian.AppendUint32(b, preferredBlockBytes)
	return binary.BigEndian.AppendUint32(b, maxRequestBytes)
}

// metaContextData is the data of repMetaContext.
func metaContextData(id uint32, name string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, id), name...)
}
