/* Selects the rows of isa.def for the architecture being compiled: they become FGD_ISA(name, flags, test). */
#if defined(__x86_64__) || defined(_M_X64)
#define FGD_ISA_X86_64(name, flags, test) FGD_ISA(name, flags, test)
#define FGD_ISA_AARCH64(name, flags, test)
#define FGD_ISA_OTHER(name, flags, test)
#elif defined(__aarch64__)
#define FGD_ISA_X86_64(name, flags, test)
#define FGD_ISA_AARCH64(name, flags, test) FGD_ISA(name, flags, test)
#define FGD_ISA_OTHER(name, flags, test)
#else
#define FGD_ISA_X86_64(name, flags, test)
#define FGD_ISA_AARCH64(name, flags, test)
#define FGD_ISA_OTHER(name, flags, test) FGD_ISA(name, flags, test)
#endif
