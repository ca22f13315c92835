-- Orthanc: query with each new study, and keep the answer sheet beside it, as its attachment 1030.
--   Orthanc's configuration:  "LuaScripts": ["orthanc_sheets.lua"]
--   its environment:          TUMORSIM_URL=http://127.0.0.1:8765  TUMORSIM_TOKEN=…
--   tumorsim serve INDEX --dicomweb http://127.0.0.1:8042/dicom-web
-- The sheet is then at /studies/ID/attachments/1030/data. A study without a SEG or RTSTRUCT gets none.
function OnStableStudy(studyId, tags, metadata)
  local url = os.getenv('TUMORSIM_URL')
  local headers = {
    ['Authorization'] = 'Bearer ' .. os.getenv('TUMORSIM_TOKEN'),
    ['Content-Type'] = 'application/json',
  }
  local scan = ParseJson(HttpPost(url .. '/scans', DumpJson({ study = tags['StudyInstanceUID'] }), headers))
  if #scan['lesions'] == 0 then return end
  local answer = ParseJson(HttpPost(url .. '/queries', DumpJson({ scan = scan['id'] }), headers))
  local sheet = HttpGet(url .. '/queries/' .. answer['id'] .. '.html', headers)
  RestApiPut('/studies/' .. studyId .. '/attachments/1030', sheet)
  HttpDelete(url .. '/scans/' .. scan['id'], headers)
end
