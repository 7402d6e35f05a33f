//! Links to the libfastgd in the folder that FASTGD_LIB_DIR names, and has programs look for it there.

fn main() {
    println!("cargo:rerun-if-env-changed=FASTGD_LIB_DIR");
    let folder = std::env::var("FASTGD_LIB_DIR").expect("FASTGD_LIB_DIR is to be the folder of libfastgd");
    println!("cargo:rustc-link-search=native={folder}");
    println!("cargo:rustc-link-lib=dylib=fastgd");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
}
