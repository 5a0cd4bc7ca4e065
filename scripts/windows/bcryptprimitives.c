/*
 * The one function of bcryptprimitives.dll that Rust's standard library needs, for Wine releases that lack the DLL
 * (Debian 12 has Wine 8). It gives what the real one gives, random bytes, through advapi32's SystemFunction036, which is
 * the documented RtlGenRandom and is present in every Wine. Windows has the real DLL and never sees this one.
 */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length);

/* RtlGenRandom takes a ULONG, ProcessPrng a SIZE_T: a longer buffer is filled in pieces. */
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length)
{
    while (length > 0) {
        ULONG piece = length > 0x40000000 ? 0x40000000 : (ULONG)length;
        if (!SystemFunction036(data, piece))
            return FALSE;
        data += piece;
        length -= piece;
    }
    return TRUE;
}
