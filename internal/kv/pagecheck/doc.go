// Package pagecheck reads the file of a Bolt database and says whether bbolt
// can be trusted with it.
//
// bbolt maps the file and believes what it finds: pages have no checksums, and
// one that says it holds more than it does makes bbolt build slices beyond it.
// On the mapping that is a fault; beyond a copy on the heap, which bbolt makes
// of some small buckets, the garbage collector ends the process, and no recover
// helps. Other damage makes the next commit write over pages that are in use.
// So every file is checked before bbolt sees it.
//
// What passes is what bbolt writes, and nothing else:
//
//   - both meta pages are whole, and the file has all the pages they speak of;
//   - every page that can be reached from the newer one, and each of the free
//     list, is referred to once, is where it says it is, is of the kind that its
//     place needs, and has its overflow pages inside the file;
//   - the elements of a page, and of a bucket that is stored in another's value,
//     follow each other without a gap and fill what there is for them;
//   - keys are not empty, ascend over a whole bucket, and each page begins with
//     the key that its parent has for it;
//   - the top level holds buckets only.
//
// bbolt itself would go on with the older meta page if the newer one is
// damaged. That takes back a commit that had been acknowledged, without a word,
// so here both have to be whole. A crash leaves them so: each has its place
// within one sector, and sectors are written whole or not at all (docs/format.md).
//
// What bbolt does not rely on is not looked at: values, pages that nobody
// refers to, and the content of free ones, which bbolt writes before it reads
// them. A change that leaves everything as bbolt might have written it (in a
// value, or in a key that stays in order) is not seen; who stores values has
// checksums of his own.
//
// The page layout is that of bbolt v1.5 (internal/common), version 2 of the
// format, in the byte order of the machine. Memory: one bit for each page of
// the file, and at each level of a tree one page or the table of one page's
// elements, at most 1 MiB. The package owns no goroutine and writes nothing.
package pagecheck
